"""Hooks leave no trace, change nothing unless asked to, and see each other in a fixed order."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn

from tiny_models import ARCHITECTURES, DEPTH, model, token_batch
from trimtab.errors import UsageError
from trimtab.model.hooks import WriteHook, gradient_writing, reading, writing
from trimtab.model.sites import layers, module_for
from trimtab.records.site import STREAMS, Site, Stream

SITES = [Site(layer, stream) for layer in range(DEPTH) for stream in STREAMS]


class Keep:
    def __init__(self) -> None:
        self.seen: list[tuple[Site, Tensor]] = []

    def __call__(self, activation: Tensor, site: Site) -> None:
        self.seen.append((site, activation))


def itself(activation: Tensor, site: Site) -> Tensor:
    return activation


def plus_zero(activation: Tensor, site: Site) -> Tensor:
    return activation + 0.0 * torch.ones_like(activation)


def plus_one(activation: Tensor, site: Site) -> Tensor:
    return activation + 1


def twice(activation: Tensor, site: Site) -> Tensor:
    return activation * 2


def nothing_left(made: nn.Module) -> bool:
    return not any(
        type(hook).__module__.startswith("trimtab") for m in made.modules() for hook in m._forward_hooks.values()
    )


def run(made: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and weight gradients."""
    ids, mask, labels = token_batch()
    made.zero_grad()
    out = made(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False)
    out.loss.backward()
    return out.logits.detach(), {name: weight.grad.clone() for name, weight in made.named_parameters()}


def same(first: tuple[Tensor, dict[str, Tensor]], second: tuple[Tensor, dict[str, Tensor]]) -> bool:
    gradients = all(torch.equal(first[1][name], second[1][name]) for name in first[1])
    return torch.equal(first[0], second[0]) and gradients


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("attach", [writing, gradient_writing, reading])
def test_attach_then_detach_is_untouched_bit_for_bit(
    architecture: str, attach: Callable[..., AbstractContextManager[None]]
) -> None:
    made = model(architecture)
    before = run(made)
    hook = Keep() if attach is reading else twice
    with attach(made, dict.fromkeys(SITES, hook)):
        assert not nothing_left(made)
        during = run(made)
    assert nothing_left(made)
    assert same(run(made), before)
    if attach is reading:  # a read changes nothing either
        assert same(during, before)
        assert len(hook.seen) == len(SITES)
    else:
        assert not same(during, before)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("hook", [itself, plus_zero])
@pytest.mark.parametrize("attach", [writing, gradient_writing])
def test_a_write_that_changes_nothing_is_no_write_bit_for_bit(
    architecture: str, attach: Callable[..., AbstractContextManager[None]], hook: WriteHook
) -> None:
    made = model(architecture)
    before = run(made)
    with attach(made, dict.fromkeys(SITES, hook)):
        assert same(run(made), before)
    with attach(made, {SITES[0]: plus_one}):
        assert not same(run(made), before)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("stream", STREAMS)
def test_a_gradient_write_leaves_the_forward_pass_alone(architecture: str, stream: Stream) -> None:
    made = model(architecture)
    before = run(made)
    site = Site(1, stream)
    with gradient_writing(made, {site: lambda gradient, site: torch.zeros_like(gradient)}):
        logits, gradients = run(made)
    assert torch.equal(logits, before[0])
    first, last = (next(layers(made)[at].named_parameters())[0] for at in (0, DEPTH - 1))
    of = {name: at for at in range(DEPTH) for name in before[1] if f".{at}." in name}
    above = [name for name, at in of.items() if at == DEPTH - 1]
    below = [name for name, at in of.items() if at == 0]
    assert above
    assert below
    assert all(torch.equal(gradients[name], before[1][name]) for name in above)
    if stream == "resid_post":  # the only way down is cut
        assert all(not gradients[name].any() for name in below)
    assert any(not torch.equal(gradients[name], before[1][name]) for name in below), (first, last)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("read_first", [True, False])
def test_a_read_sees_what_is_written_in_whatever_order_they_were_attached(
    architecture: str, stream: Stream, read_first: bool
) -> None:
    made, keep, site = model(architecture), Keep(), Site(1, stream)
    read, write = reading(made, {site: keep}), writing(made, {site: lambda h, site: torch.full_like(h, 0.25)})
    outer, inner = (read, write) if read_first else (write, read)
    ids, mask, _ = token_batch()
    with outer, inner:
        out = made(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    ((_, seen),) = keep.seen
    assert torch.equal(seen, torch.full_like(seen, 0.25))
    if stream == "resid_post":
        assert torch.equal(out.hidden_states[2], seen)
    keep.seen.clear()
    with reading(made, {site: keep}):
        made(input_ids=ids, attention_mask=mask)
    assert not torch.equal(keep.seen[0][1], seen)


def test_writes_run_in_the_order_in_which_they_were_attached() -> None:
    made, site, keep = model("llama"), Site(1), Keep()
    ids, mask, _ = token_batch()
    with reading(made, {site: keep}):
        made(input_ids=ids, attention_mask=mask)
        with writing(made, {site: plus_one}), writing(made, {site: twice}):
            made(input_ids=ids, attention_mask=mask)
        with writing(made, {site: twice}), writing(made, {site: plus_one}):
            made(input_ids=ids, attention_mask=mask)
    plain, sum_first, product_first = (seen for _, seen in keep.seen)
    assert torch.equal(sum_first, (plain + 1) * 2)
    assert torch.equal(product_first, plain * 2 + 1)
    assert not torch.equal(sum_first, product_first)


def test_what_is_read_carries_no_gradient_but_what_is_written_does() -> None:
    made, keep = model("llama"), Keep()
    shift = torch.zeros(32, requires_grad=True)
    ids, mask, labels = token_batch()
    with writing(made, {Site(1): lambda h, site: h + shift}), reading(made, {Site(1): keep}):
        made(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
    assert not keep.seen[0][1].requires_grad
    assert shift.grad is not None
    assert shift.grad.any()


def test_hooks_come_off_when_the_forward_pass_raises() -> None:
    made = model("gpt2")

    def fails(activation: Tensor, site: Site) -> Tensor:
        raise RuntimeError("on purpose")

    ids, mask, _ = token_batch()
    with pytest.raises(RuntimeError, match="on purpose"), writing(made, {Site(1): fails}):
        made(input_ids=ids, attention_mask=mask)
    assert nothing_left(made)


@pytest.mark.parametrize("attach", [writing, gradient_writing])
def test_a_hook_that_returns_another_shape_is_refused(attach: Callable[..., AbstractContextManager[None]]) -> None:
    made = model("llama")
    with (
        pytest.raises(UsageError, match=r"2\.resid_post.*shape"),
        attach(made, {Site(2): lambda h, site: h[:, :1]}),
    ):
        run(made)


def test_a_site_that_does_not_exist_is_refused_and_nothing_stays_attached() -> None:
    made = model("llama")
    with pytest.raises(UsageError, match=r"layers 0 to 2"), reading(made, {Site(0): Keep(), Site(3): Keep()}):
        pass
    assert nothing_left(made)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_hook_in_bfloat16_keeps_the_dtype(architecture: str) -> None:
    made, keep = model(architecture).to(torch.bfloat16), Keep()
    direction = torch.ones(32)
    ids, mask, _ = token_batch()
    with writing(made, {Site(1): lambda h, site: h + direction}), reading(made, {Site(1): keep}):
        made(input_ids=ids, attention_mask=mask)
    assert keep.seen[0][1].dtype == torch.bfloat16
    assert module_for(made, Site(1)) is layers(made)[1]
