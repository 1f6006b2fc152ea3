import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trimtab.errors import StorageError, TrainingError, UsageError
from trimtab.lens.base import TENSOR_FILE, Lens, save_lens
from trimtab.lens.load import load_lens
from trimtab.lens.probes.descent import Descent, Standard, Weights, balanced, descend, weighted_bce
from trimtab.lens.probes.examples import Examples, checked_examples
from trimtab.lens.probes.linear import fit_logistic
from trimtab.lens.probes.neural import AttentionLens, MlpLens, PointPooling, fit_attention, fit_mlp, pooled
from trimtab.lens.spans import Spans
from trimtab.records.lens import LensCard
from trimtab.records.rows import Fit, HeldOut, Split, Tune
from trimtab.records.site import Site
from trimtab.stats import auroc

D = 16
CARD = LensCard(
    concept="c", meaning="m", kind="direction", site=Site(1), pooling="mean", model="tiny", model_hash="abc"
)
POOLINGS: tuple[PointPooling, ...] = ("mean", "max", "last")
QUICK = Descent(epochs=20, patience=20, learning_rate=1e-2)


def _wrap(values: list[torch.Tensor], labels: torch.Tensor, split: type[Split]) -> Examples[Split]:
    offsets = torch.tensor([0, *(len(span) for span in values)]).cumsum(0)
    spans = Spans(values=torch.cat(values), offsets=offsets)
    return checked_examples(spans, labels, [f"{split.__name__} {i}" for i in range(len(values))], split)


def _needle(split: type[Split], seed: int, n: int = 300, *, d: int = D, lengths: tuple[int, int] = (4, 12)) -> Examples:
    """One token of each span is marked in dimension 1 and carries the label in dimension 0; the scale is not 1."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.rand(n, generator=random) < 0.5
    values: list[torch.Tensor] = []
    for label in labels:
        length = int(torch.randint(*lengths, (1,), generator=random))
        span = torch.randn(length, d, generator=random)
        place = int(torch.randint(length, (1,), generator=random))
        span[place, 1] += 6.0
        span[place, 0] += 3.0 if label else -3.0
        values.append(span * 50.0 + 20.0)
    return _wrap(values, labels, split)


def _ring(split: type[Split], seed: int, n: int = 400) -> Examples[Split]:
    """Positive inside a circle: no line tells the classes apart."""
    random = torch.Generator().manual_seed(seed)
    points = torch.randn(n, 1, 4, generator=random)
    return _wrap(list(points), points[:, 0, :2].norm(dim=1) < 1.1, split)


def _area(lens: Lens, examples: Examples[Split]) -> float:
    scores = lens.read(examples.spans)
    return auroc(scores[examples.labels].numpy(), scores[~examples.labels].numpy())


def _random_attention(heads: int, seed: int = 0) -> AttentionLens:
    random = torch.Generator().manual_seed(seed)
    card = replace(CARD, kind="attention", pooling="attention")
    return AttentionLens(
        card=card,
        query=torch.randn(heads, D, generator=random),
        value=torch.randn(heads, D, generator=random),
        bias=torch.tensor(0.3),
    )


def _random_mlp(pooling: PointPooling) -> MlpLens:
    random = torch.Generator().manual_seed(0)
    return MlpLens(
        card=replace(CARD, kind="mlp", pooling=pooling),
        hidden=torch.randn(5, D, generator=random),
        hidden_bias=torch.randn(5, generator=random),
        output=torch.randn(5, generator=random),
        bias=torch.tensor(-0.2),
    )


def test_attention_finds_the_token_that_matters_where_the_mean_does_not() -> None:
    fit, tune, held_out = (
        _needle(split, seed, 400, lengths=(12, 20)) for seed, split in enumerate((Fit, Tune, HeldOut))
    )
    lens = fit_attention(fit, tune, CARD, descent=replace(QUICK, epochs=60, batch_size=64))
    assert (lens.card.kind, lens.card.pooling, lens.card.settings["heads"]) == ("attention", "attention", 4)
    assert _area(lens, held_out) > 0.95
    assert _area(fit_mlp(fit, tune, CARD, pooling="mean", descent=QUICK), held_out) < 0.9
    looks = lens.attention(held_out.spans).mean(1)
    marked = (held_out.spans.values[:, 1] - 20.0) / 50.0 > 4.0
    assert float(looks[marked].mean()) > 3 * float(looks[~marked].mean())


def test_a_hidden_layer_bends_where_attention_stays_linear() -> None:
    fit, tune, held_out = _ring(Fit, 0), _ring(Tune, 1), _ring(HeldOut, 2)
    mlp = fit_mlp(fit, tune, CARD, pooling="last", descent=replace(QUICK, epochs=40, batch_size=64))
    assert _area(mlp, held_out) > 0.95
    assert _area(fit_attention(fit, tune, CARD, heads=1, descent=QUICK), held_out) < 0.65


@pytest.mark.parametrize("heads", [1, 3])
def test_attention_reads_what_its_formula_says(heads: int) -> None:
    lens, spans = _random_attention(heads), _needle(HeldOut, 3, 20).spans
    spans = Spans(values=(spans.values - 20.0) / 50.0, offsets=spans.offsets)
    expected = []
    for i in range(len(spans)):
        h = spans.values[spans.offsets[i] : spans.offsets[i + 1]]
        shares = torch.softmax(h @ lens.query.T, 0)
        assert torch.allclose(lens.attention(spans.take([i])), shares, atol=1e-6)
        expected.append((shares * (h @ lens.value.T)).sum() + lens.bias)
    assert torch.allclose(lens.read(spans), torch.stack(expected), atol=1e-4)
    summed = torch.zeros(len(spans)).index_add(0, spans.owner, lens.contributions(spans)) + lens.bias
    assert torch.allclose(summed, lens.read(spans), atol=1e-5)
    shuffled = torch.cat([spans.values[a:b].flip(0) for a, b in zip(spans.offsets, spans.offsets[1:], strict=False)])
    flipped = Spans(values=shuffled, offsets=spans.offsets)
    assert torch.allclose(lens.read(flipped), lens.read(spans), atol=1e-4)
    assert not torch.allclose(lens.contributions(flipped), lens.contributions(spans), atol=1e-2)


def test_attention_does_not_overflow() -> None:
    lens, spans = _random_attention(2), _needle(HeldOut, 3, 20).spans
    assert torch.isfinite(lens.read(Spans(values=spans.values * 1e4, offsets=spans.offsets))).all()


@pytest.mark.parametrize("lens", [*(_random_mlp(p) for p in POOLINGS), _random_attention(2)])
def test_a_token_by_itself_is_a_span_of_one(lens: MlpLens | AttentionLens) -> None:
    values = torch.randn(7, D, generator=torch.Generator().manual_seed(5), requires_grad=True)
    alone = Spans(values=values.detach(), offsets=torch.arange(8))
    tokens = lens.tokens(values)
    assert not tokens.requires_grad
    assert torch.allclose(tokens, lens.read(alone), atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_an_mlp_pools_as_its_card_says(pooling: PointPooling) -> None:
    lens, spans = _random_mlp(pooling), _needle(HeldOut, 4, 9).spans
    for i in range(len(spans)):
        h = spans.values[spans.offsets[i] : spans.offsets[i + 1]]
        point = {"mean": h.mean(0, keepdim=True), "last": h[-1:], "max": h}[pooling]
        expected = torch.nn.functional.gelu(point @ lens.hidden.T + lens.hidden_bias) @ lens.output + lens.bias
        assert float(lens.read(spans)[i]) == pytest.approx(float(expected.max()), rel=1e-4)
    assert len(pooled(spans, pooling).values) == (len(spans.values) if pooling == "max" else len(spans))


@pytest.mark.parametrize("kind", [*POOLINGS, "attention"])
def test_the_same_seed_gives_the_same_bits_and_a_saved_lens_reads_the_same(kind: str, tmp_path: Path) -> None:
    fit, tune, held_out = _needle(Fit, 0, 80), _needle(Tune, 1, 40), _needle(HeldOut, 2, 40)

    def fitted(seed: int) -> Lens:
        descent = replace(QUICK, epochs=3, seed=seed)
        if kind == "attention":
            return fit_attention(fit, tune, CARD, heads=2, descent=descent)
        return fit_mlp(fit, tune, CARD, pooling=kind, hidden=6, descent=descent)  # type: ignore[arg-type]

    lens, again, other = fitted(0), fitted(0), fitted(1)
    for name, tensor in lens.tensors().items():
        assert torch.equal(tensor, again.tensors()[name])
    assert any(not torch.equal(tensor, other.tensors()[name]) for name, tensor in lens.tensors().items())
    save_lens(lens, tmp_path)
    loaded = load_lens(tmp_path)
    assert type(loaded) is type(lens)
    assert loaded.card == lens.card
    assert torch.equal(loaded.read(held_out.spans), lens.read(held_out.spans))
    assert torch.equal(loaded.tokens(held_out.spans.values), lens.tokens(held_out.spans.values))


def test_a_lens_folder_with_the_wrong_tensors_is_refused(tmp_path: Path) -> None:
    save_lens(_random_attention(2), tmp_path / "attention")
    save_lens(_random_mlp("max"), tmp_path / "mlp")
    (tmp_path / "mlp" / TENSOR_FILE).write_bytes((tmp_path / "attention" / TENSOR_FILE).read_bytes())
    with pytest.raises(StorageError, match="a whole lens folder"):
        load_lens(tmp_path / "mlp")


def test_half_precision_activations_are_read_in_float32() -> None:
    spans = _needle(HeldOut, 6, 8).spans
    half = Spans(values=spans.values.bfloat16(), offsets=spans.offsets)
    full = Spans(values=half.values.float(), offsets=spans.offsets)
    for lens in (_random_attention(2), _random_mlp("max")):
        assert torch.equal(lens.read(half), lens.read(full))


def test_folding_the_standardisation_changes_nothing() -> None:
    fit, tune = _needle(Fit, 0, 80), _needle(Tune, 1, 40)
    mean, scale = fit.spans.values.mean(0), fit.spans.values.std(0, correction=0)

    def standard(examples: Examples) -> Examples:
        return replace(
            examples, spans=Spans(values=(examples.spans.values - mean) / scale, offsets=examples.spans.offsets)
        )

    raw = fit_attention(fit, tune, CARD, descent=QUICK)
    same = fit_attention(standard(fit), standard(tune), CARD, descent=QUICK)
    assert torch.allclose(raw.read(tune.spans), same.read(standard(tune).spans), atol=1e-3)
    assert not torch.allclose(raw.value, same.value, atol=1e-2)
    raw_mlp = fit_mlp(fit, tune, CARD, pooling="max", descent=QUICK)
    same_mlp = fit_mlp(standard(fit), standard(tune), CARD, pooling="max", descent=QUICK)
    assert torch.allclose(raw_mlp.read(tune.spans), same_mlp.read(standard(tune).spans), atol=1e-3)


def test_classes_are_balanced() -> None:
    labels = torch.arange(100) < 10
    weights = balanced(labels)
    assert float(weights[labels].sum()) == pytest.approx(float(weights[~labels].sum()))
    assert float(weights.mean()) == pytest.approx(1.0)
    flat = torch.zeros(100)
    assert float(weighted_bce(flat, labels.float(), weights)) == pytest.approx(0.6931, abs=1e-4)
    pushed = torch.full((100,), 0.1, requires_grad=True)
    torch.autograd.backward(weighted_bce(pushed - 0.1, labels.float(), weights))
    assert pushed.grad is not None
    assert float(pushed.grad.sum()) == pytest.approx(0.0, abs=1e-6)
    plain = torch.zeros(100, requires_grad=True)
    torch.autograd.backward(weighted_bce(plain, labels.float(), torch.ones(100)))
    assert plain.grad is not None
    assert float(plain.grad.sum()) == pytest.approx(0.4, abs=1e-6)


def test_training_stops_on_tune_and_keeps_the_best_epoch() -> None:
    fit, tune = _ring(Fit, 0, 80), _ring(Tune, 1, 80)
    seen: list[tuple[int, int]] = []
    descent = Descent(epochs=200, patience=3, learning_rate=3e-3)
    lens = fit_mlp(fit, tune, CARD, pooling="mean", descent=descent, progress=lambda *done: seen.append(done))
    best = lens.card.settings["epoch"]
    assert isinstance(best, int)
    assert best > 0
    assert seen[-1] == (best + 3, 200)
    short = fit_mlp(fit, tune, CARD, pooling="mean", descent=replace(descent, epochs=best))
    assert torch.equal(short.hidden, lens.hidden)
    assert short.card.settings["tune_loss"] == lens.card.settings["tune_loss"]


@pytest.mark.parametrize("kind", [*POOLINGS, "attention"])
def test_without_anything_better_on_tune_it_is_the_logistic_probe(kind: str) -> None:
    fit, tune = _needle(Fit, 0, 120), _needle(Tune, 1, 120)
    descent = Descent(learning_rate=1.0, patience=1)
    if kind == "attention":
        lens: Lens = fit_attention(fit, tune, CARD, descent=descent)
        linear = fit_logistic(fit, tune, CARD, pooling="mean")
    else:
        lens = fit_mlp(fit, tune, CARD, pooling=kind, descent=descent)  # type: ignore[arg-type]
        linear = fit_logistic(fit, tune, CARD, pooling=kind)  # type: ignore[arg-type]
    assert lens.card.settings["epoch"] == 0
    assert torch.allclose(lens.read(tune.spans), linear.read(tune.spans), atol=1e-3)


def test_learning_rates_fall_with_the_width_of_the_inputs() -> None:
    """A step moves the score of an all-ones input by as much whatever its width."""

    def moved(d: int) -> float:
        labels = torch.tensor([True, False])
        spans = Spans(values=torch.stack([torch.ones(d), -torch.ones(d)]), offsets=torch.arange(3))
        examples = [checked_examples(spans, labels, [f"{s.__name__} a", f"{s.__name__} b"], s) for s in (Fit, Tune)]

        def objective(w: Weights, x: Spans, y: torch.Tensor, share: torch.Tensor, _done: float) -> torch.Tensor:
            return weighted_bce(x.values @ w["weight"], y, share)

        found = descend(
            {"weight": torch.zeros(d)}, objective, *examples, Standard.of(spans), Descent(epochs=1, learning_rate=1e-2)
        )
        return float(found.weights["weight"].sum())

    assert moved(64) == pytest.approx(1.28, rel=1e-3)
    assert moved(1024) == pytest.approx(moved(64), rel=1e-3)


def test_constant_dimensions_do_no_harm() -> None:
    def with_constant(examples: Examples, value: float) -> Examples:
        values = examples.spans.values.clone()
        values[:, 2] = value
        return replace(examples, spans=Spans(values=values, offsets=examples.spans.offsets))

    fit, tune, held_out = _needle(Fit, 0), _needle(Tune, 1), _needle(HeldOut, 2)
    lens = fit_attention(with_constant(fit, 7.0), with_constant(tune, 7.0), CARD, descent=QUICK)
    assert torch.isfinite(lens.read(held_out.spans)).all()
    assert _area(lens, with_constant(held_out, 7.0)) > 0.85


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(TrainingError, match="lower learning_rate"):
        fit_mlp(_needle(Fit, 0, 60), _needle(Tune, 1, 60), CARD, descent=Descent(learning_rate=1e30))


def test_settings_out_of_range_are_refused() -> None:
    fit, tune = _needle(Fit, 0, 40), _needle(Tune, 1, 40)
    with pytest.raises(UsageError, match="number of heads 0"):
        fit_attention(fit, tune, CARD, heads=0)
    with pytest.raises(UsageError, match="hidden width 1"):
        fit_mlp(fit, tune, CARD, hidden=1)
    with pytest.raises(UsageError, match="mean or max or last"):
        fit_mlp.__wrapped__(fit, tune, CARD, pooling="attention")
    for wrong in ({"learning_rate": 0.0}, {"epochs": 0}, {"batch_size": 0}, {"patience": 0}, {"weight_decay": -1.0}):
        with pytest.raises(UsageError, match="learning_rate"):
            Descent(**wrong)  # type: ignore[arg-type]


def test_a_fit_takes_seconds() -> None:
    """500 examples of 20 tokens: 1 to 2 seconds on an idle core, and room for a slow machine."""
    fit, tune = _needle(Fit, 0, 500, d=128, lengths=(20, 21)), _needle(Tune, 1, 150, d=128, lengths=(20, 21))
    start = time.process_time()
    fit_attention(fit, tune, CARD)
    assert time.process_time() - start < 5.0
