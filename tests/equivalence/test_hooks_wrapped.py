"""Hooks under gradient checkpointing and under PEFT do what they do without."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from tiny_models import ARCHITECTURES, model, token_batch, tokenizer
from trimtab.model.base import LanguageModel
from trimtab.model.capture import activation_gradients
from trimtab.model.hooks import gradient_writing, reading, writing
from trimtab.model.selfcheck import self_check
from trimtab.model.sites import layers, unwrap
from trimtab.records.site import STREAMS, Site, Stream

# transformers 5.23 renames these to activation_checkpointing, which older versions (and PEFT) do not have
pytestmark = pytest.mark.filterwarnings("ignore:.(is_)?gradient_checkpointing:FutureWarning")


def half(tensor: Tensor, site: Site) -> Tensor:
    return tensor / 2


def weight_gradients(made: nn.Module, site: Site | None) -> tuple[dict[str, Tensor], int]:
    """Weight gradients under a write and a gradient write at ``site``, and how often a read fired."""
    ids, mask, labels = token_batch()
    reads: list[Site] = []
    at = {} if site is None else {site: half}
    made.zero_grad()
    with (
        writing(made, at),
        gradient_writing(made, at),
        reading(made, dict.fromkeys(at, lambda activation, site: reads.append(site))),
    ):
        made(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss.backward()
    found = {name: weight.grad.clone() for name, weight in made.named_parameters() if weight.grad is not None}
    return found, len(reads)


def checkpointed(architecture: str, *, reentrant: bool) -> nn.Module:
    made = model(architecture)
    made.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    made.enable_input_require_grads()
    return made.train()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_no_gradient_and_no_read_count(
    architecture: str, stream: Stream, reentrant: bool
) -> None:
    site = Site(1, stream)
    plain, reads = weight_gradients(model(architecture).train(), site)
    under, reads_under = weight_gradients(checkpointed(architecture, reentrant=reentrant), site)
    assert reads == reads_under == 1
    assert plain.keys() == under.keys()
    for name in plain:
        torch.testing.assert_close(under[name], plain[name], msg=name)
    unhooked, _ = weight_gradients(checkpointed(architecture, reentrant=reentrant), None)
    assert any(not torch.allclose(unhooked[name], plain[name]) for name in plain)


def test_layers_are_recomputed_in_these_tests() -> None:
    made, calls = checkpointed("llama", reentrant=False), []
    layers(made)[1].self_attn.register_forward_hook(lambda *_: calls.append(1))
    weight_gradients(made, None)
    assert len(calls) == 2


def adapted(architecture: str) -> nn.Module:
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    config.fan_in_fan_out = architecture == "gpt2"
    return get_peft_model(model(architecture), config)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hooks_work_on_a_peft_model(architecture: str) -> None:
    wrapped, plain = adapted(architecture), model(architecture)
    base = unwrap(wrapped)
    made = LanguageModel(model=base, tokenizer=tokenizer(), name="student", content_hash="")
    assert self_check(made).layers_read == 3
    assert layers(wrapped) is layers(base)
    ids, mask, labels = token_batch()
    with torch.no_grad():
        with writing(wrapped, {Site(1): half}):
            written = wrapped(input_ids=ids, attention_mask=mask).logits
            with wrapped.disable_adapter():
                without = wrapped(input_ids=ids, attention_mask=mask).logits
        with writing(plain, {Site(1): half}):
            expected = plain(input_ids=ids, attention_mask=mask).logits
    assert torch.equal(without, expected)
    assert not torch.equal(written, expected)
    trainable = [name for name, weight in wrapped.named_parameters() if weight.requires_grad]
    activation_gradients(made, ids, mask, labels, [Site(1)])
    assert [name for name, weight in wrapped.named_parameters() if weight.requires_grad] == trainable
    assert trainable


def test_checkpointed_lora_trains_through_a_gradient_write() -> None:
    wrapped = adapted("llama")
    wrapped.enable_input_require_grads()
    unwrap(wrapped).gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    wrapped.train()
    plain = adapted("llama").train()
    plain.load_state_dict(wrapped.state_dict())
    under, _ = weight_gradients(wrapped, Site(1))
    straight, _ = weight_gradients(plain, Site(1))
    assert straight
    for name in straight:
        torch.testing.assert_close(under[name], straight[name], msg=name)
