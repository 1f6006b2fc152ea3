from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import GraniteConfig, GraniteForCausalLM

from tiny_models import ARCHITECTURES, DEPTH, language_model
from trimtab.errors import SelfCheckError, UsageError
from trimtab.model.base import LanguageModel
from trimtab.model.selfcheck import self_check
from trimtab.model.sites import layers, module_for
from trimtab.records.site import STREAMS, Site, Stream


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_green_on_every_promised_architecture(architecture: str, dtype: torch.dtype) -> None:
    lm = language_model(architecture)
    lm.model.to(dtype)
    proven = self_check(lm)
    assert set(proven.streams) == set(STREAMS)
    assert proven.layers_read == DEPTH
    assert len(proven.sites_written) == DEPTH * len(STREAMS)
    assert proven.additive_error is not None
    assert not any(module._forward_hooks for module in layers(lm.model).modules() if type(module) is nn.Linear)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_green_while_the_model_is_in_training_mode_with_dropout(architecture: str) -> None:
    lm = language_model(architecture, dropout=0.5)
    lm.model.train()
    assert self_check(lm).layers_read == DEPTH
    assert lm.model.training


def redirect(monkeypatch: pytest.MonkeyPatch, stream: Stream, choose: Callable[[nn.Module, Site], nn.Module]) -> None:
    """Make the hooks look at another module than the right one for ``stream``."""

    def wrong(model: nn.Module, site: Site) -> nn.Module:
        return choose(model, site) if site.stream == stream else module_for(model, site)

    monkeypatch.setattr("trimtab.model.hooks.module_for", wrong)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fails_when_a_layer_is_off_by_one(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    redirect(monkeypatch, "resid_post", lambda model, site: layers(model)[(site.layer + 1) % DEPTH])
    with pytest.raises(SelfCheckError, match=r"what is read at 0\.resid_post differs"):
        self_check(language_model(architecture))


def test_fails_when_gemma_is_read_before_its_post_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    redirect(monkeypatch, "mlp_out", lambda model, site: layers(model)[site.layer].mlp)
    with pytest.raises(SelfCheckError, match="misses resid_post"):
        self_check(language_model("gemma3"))


def test_fails_when_writes_do_not_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.model.selfcheck._push_last_token", lambda activation, site: activation)
    with pytest.raises(SelfCheckError, match="does not move the logits"):
        self_check(language_model("llama"))


def test_fails_when_a_write_lands_on_other_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.model.selfcheck._push_last_token", lambda activation, site: activation.roll(1, dims=1))
    with pytest.raises(SelfCheckError, match="earlier tokens"):
        self_check(language_model("llama"))


def test_fails_when_logits_are_not_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = language_model("gpt2")

    def leaves_a_trace(activation: Tensor, site: Site) -> Tensor:
        with torch.no_grad():
            lm.model.lm_head.weight[0, 0] += 1
        return activation.clone().index_add_(1, torch.tensor([7]), torch.ones_like(activation[:, :1]))

    monkeypatch.setattr("trimtab.model.selfcheck._push_last_token", leaves_a_trace)
    with pytest.raises(SelfCheckError):
        self_check(lm)


def test_an_architecture_that_scales_what_it_adds_offers_resid_post_only() -> None:
    torch.manual_seed(0)
    config = GraniteConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=300,
        residual_multiplier=0.5,
        initializer_range=0.3,
    )
    llama = language_model("llama")
    lm = LanguageModel(model=GraniteForCausalLM(config), tokenizer=llama.tokenizer, name="granite", content_hash="")
    proven = self_check(lm)
    assert proven.streams == ("resid_post",)
    assert proven.additive_error is None
    with pytest.raises(UsageError, match=r"1\.mlp_out"):
        module_for(lm.model, Site(1, "mlp_out"))
