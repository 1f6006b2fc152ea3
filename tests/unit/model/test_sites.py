import pytest
import torch
from torch import nn
from transformers import BloomConfig, BloomForCausalLM

from tiny_models import ARCHITECTURES, DEPTH, language_model, model
from trimtab.errors import ModelError, UsageError
from trimtab.model.base import LanguageModel
from trimtab.model.selfcheck import self_check
from trimtab.model.sites import check_site, decoder, layers, module_for, n_layers, unwrap
from trimtab.records.site import Site


@pytest.mark.parametrize(
    ("architecture", "attn_out", "mlp_out"),
    [
        ("llama", "self_attn", "mlp"),
        ("gemma3", "post_attention_layernorm", "post_feedforward_layernorm"),
        ("qwen3", "self_attn", "mlp"),
        ("gpt2", "attn", "mlp"),
        ("gpt_neox", "post_attention_dropout", "post_mlp_dropout"),
    ],
)
def test_each_stream_is_what_is_added_to_the_residual_stream(architecture: str, attn_out: str, mlp_out: str) -> None:
    made = model(architecture)
    layer = layers(made)[1]
    assert module_for(made, Site(1)) is layer
    assert module_for(made, Site(1, "attn_out")) is getattr(layer, attn_out)
    assert module_for(made, Site(1, "mlp_out")) is getattr(layer, mlp_out)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_the_same_shape_of_answer(architecture: str) -> None:
    lm = language_model(architecture)
    assert lm.n_layers == n_layers(lm.model) == DEPTH
    assert lm.d_model == 32
    assert lm.device == torch.device("cpu")
    assert decoder(lm.model) is lm.model.base_model


@pytest.mark.parametrize("layer", [DEPTH, 99])
def test_out_of_range_says_the_range(layer: int) -> None:
    with pytest.raises(UsageError, match=rf"layer {layer}.*\n.*layers 0 to {DEPTH - 1}") as caught:
        check_site(model("llama"), Site(layer))
    assert "1 is the middle" in caught.value.todo


def test_wrappers_are_opened_and_strangers_refused() -> None:
    made = model("llama")
    wrapped = nn.Module()
    wrapped.module = made
    assert unwrap(wrapped) is unwrap(made) is made
    with pytest.raises(ModelError, match="a Linear"):
        unwrap(nn.Linear(2, 2))


def test_blocks_that_add_the_residual_themselves_offer_resid_post_only() -> None:
    torch.manual_seed(0)
    bloom = BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=300)).eval()
    lm = LanguageModel(model=bloom, tokenizer=language_model("llama").tokenizer, name="bloom", content_hash="")
    assert self_check(lm).streams == ("resid_post",)
