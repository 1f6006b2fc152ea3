import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tiny_models import ARCHITECTURES, DEPTH, language_model, token_batch
from trimtab.errors import UsageError
from trimtab.model.capture import activation_gradients, capture
from trimtab.model.hooks import reading, writing
from trimtab.records.site import STREAMS, Site, Stream

SITES = [Site(layer, stream) for layer in range(DEPTH) for stream in STREAMS]


def summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="sum")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_equal_full_autograd(architecture: str) -> None:
    lm = language_model(architecture)
    ids, mask, labels = token_batch()
    found = {}

    def keep(activation: Tensor, site: Site) -> Tensor:
        found[site] = activation
        return activation

    with writing(lm.model, dict.fromkeys(SITES, keep)):
        loss = summed_loss(lm.model(input_ids=ids, attention_mask=mask).logits, labels)
    expected = torch.autograd.grad(loss, [found[site] for site in SITES])
    got = activation_gradients(lm, ids, mask, labels, SITES)
    for site, gradient in zip(SITES, expected, strict=True):
        assert gradient.any()
        torch.testing.assert_close(got.gradients[site], gradient, rtol=1e-4, atol=1e-5, msg=str(site))
        torch.testing.assert_close(got.activations[site], found[site].detach(), msg=str(site))
    torch.testing.assert_close(got.token_losses.sum(), loss.detach())
    assert torch.equal(got.token_losses != 0, (labels != -100))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("stream", STREAMS)
def test_gradients_equal_finite_differences(architecture: str, stream: Stream) -> None:
    lm = language_model(architecture)
    lm.model.double()
    ids, mask, labels = token_batch()
    site = Site(1, stream)
    got = activation_gradients(lm, ids, mask, labels, [site])
    assert got.gradients[site].dtype == torch.float64
    generator = torch.Generator().manual_seed(1)
    way = torch.randn(got.activations[site].shape, generator=generator, dtype=torch.float64)

    def loss_at(step: float) -> Tensor:
        with torch.no_grad(), writing(lm.model, {site: lambda h, site: h + step * way}):
            return summed_loss(lm.model(input_ids=ids, attention_mask=mask).logits, labels)

    # norms and rotary embeddings compute in float32 inside a float64 model: a long step and the four-point rule
    step = 4e-3
    slope = (8 * (loss_at(step) - loss_at(-step)) - (loss_at(2 * step) - loss_at(-2 * step))) / (12 * step)
    torch.testing.assert_close((got.gradients[site] * way).sum(), slope, rtol=1e-3, atol=1e-3)
    assert slope.abs() > 1e-2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_tokens_gradient_does_not_depend_on_the_batch(architecture: str) -> None:
    lm = language_model(architecture)
    ids, mask, labels = token_batch()
    whole = activation_gradients(lm, ids, mask, labels, [Site(1)]).gradients[Site(1)]
    for row in range(len(ids)):
        length = int(mask[row].sum())
        alone = activation_gradients(
            lm, ids[row : row + 1, :length], mask[row : row + 1, :length], labels[row : row + 1, :length], [Site(1)]
        ).gradients[Site(1)]
        torch.testing.assert_close(alone[0], whole[row, :length], rtol=1e-4, atol=1e-5)
        assert not whole[row, length:].any()
    assert not torch.allclose(whole[0], whole[1])


def test_gradients_do_not_depend_on_which_other_sites_are_asked_for() -> None:
    lm = language_model("gpt_neox")
    ids, mask, labels = token_batch()
    all_sites = activation_gradients(lm, ids, mask, labels, SITES)
    for site in SITES:
        alone = activation_gradients(lm, ids, mask, labels, [site])
        torch.testing.assert_close(alone.gradients[site], all_sites.gradients[site])
    assert not torch.allclose(all_sites.gradients[SITES[0]], all_sites.gradients[SITES[-1]])


def test_weights_get_no_gradient_and_modes_are_restored() -> None:
    lm = language_model("gpt2", dropout=0.5)
    lm.model.train()
    lm.model.transformer.h[1].eval()
    lm.model.lm_head.weight.requires_grad_(False)
    modes = [module.training for module in lm.model.modules()]
    flags = [weight.requires_grad for weight in lm.model.parameters()]
    assert len(set(modes)) == len(set(flags)) == 2
    ids, mask, labels = token_batch()
    first = activation_gradients(lm, ids, mask, labels, [Site(1)])
    second = activation_gradients(lm, ids, mask, labels, [Site(1)])
    assert torch.equal(first.gradients[Site(1)], second.gradients[Site(1)])  # dropout is off
    assert [module.training for module in lm.model.modules()] == modes
    assert [weight.requires_grad for weight in lm.model.parameters()] == flags
    assert all(weight.grad is None for weight in lm.model.parameters())
    with torch.no_grad():  # and on again
        assert not torch.equal(lm.model(input_ids=ids).logits, lm.model(input_ids=ids).logits)


def test_layers_below_the_first_site_run_without_a_graph() -> None:
    lm = language_model("llama")
    ids, mask, labels = token_batch()
    needs = {}

    def look(activation: Tensor, site: Site) -> Tensor:
        needs[site.layer] = activation.requires_grad
        return activation

    with writing(lm.model, {Site(layer): look for layer in range(DEPTH)}):
        activation_gradients(lm, ids, mask, labels, [Site(1)])
    assert needs == {0: False, 1: False, 2: True}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_capture_reads_hidden_states_and_stops_after_the_last_site(architecture: str) -> None:
    lm = language_model(architecture)
    ids, mask, _ = token_batch()
    with torch.no_grad():
        reported = lm.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    ran = []
    with reading(lm.model, {Site(layer): lambda activation, site: ran.append(site.layer) for layer in range(DEPTH)}):
        got = capture(lm, ids, mask, [Site(1), Site(0), Site(1)])
    assert list(got) == [Site(1), Site(0)]
    assert torch.equal(got[Site(0)], reported[1])
    assert torch.equal(got[Site(1)], reported[2])
    assert not torch.equal(got[Site(0)], got[Site(1)])
    assert ran == [0, 1]
    assert not got[Site(0)].requires_grad


@pytest.mark.parametrize("call", ["capture", "gradients"])
def test_layer_out_of_range_says_the_range(call: str) -> None:
    lm = language_model("llama")
    ids, mask, labels = token_batch()
    ask = {
        "capture": lambda: capture(lm, ids, mask, [Site(7)]),
        "gradients": lambda: activation_gradients(lm, ids, mask, labels, [Site(7)]),
    }[call]
    with pytest.raises(UsageError, match=r"layer 7.*\n.*layers 0 to 2"):
        ask()


def test_nothing_to_learn_or_nowhere_to_look_is_refused() -> None:
    lm = language_model("llama")
    ids, mask, labels = token_batch()
    with pytest.raises(UsageError, match="no token is learned"):
        activation_gradients(lm, ids, mask, torch.full_like(labels, -100), [Site(1)])
    with pytest.raises(UsageError, match="no site"):
        activation_gradients(lm, ids, mask, labels, [])
