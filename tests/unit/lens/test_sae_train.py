"""Training finds planted directions, resumes to the bit, revives dead features and never hides a broken loss."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sae_world import DIRECTIONS, HOST, WIDTH, best_cosines, noise, planted_tokens, source
from tiny_models import language_model
from trimtab.errors import DataError, StorageError, TrainingError
from trimtab.lens.directions import norms
from trimtab.lens.sae.checkpoint import CHECKPOINT_FILE
from trimtab.lens.sae.format import CONFIG_FILE, load_sae
from trimtab.lens.sae.losses import Weights, step_loss
from trimtab.lens.sae.metrics import fidelity
from trimtab.lens.sae.model import SparseAutoencoder
from trimtab.lens.sae.source import MemoryTokens, StoreTokens, TokenSource, tokens_of
from trimtab.lens.sae.train import (
    METRICS_FILE,
    Plan,
    default_rate,
    geometric_median,
    learning_rate,
    plan_of,
    train_sae,
)
from trimtab.lens.spans import Spans
from trimtab.lens.store.layout import tokenizer_hash
from trimtab.lens.store.read import Store
from trimtab.lens.store.write import CaptureSettings, capture_store
from trimtab.records.figures import Measured
from trimtab.records.lens import Selected
from trimtab.records.sae import SaeArchitecture, SaeOrigin, SaeSettings
from trimtab.records.site import Site

SHORT = SaeSettings(architecture="batchtopk", features=48, k=3, batch=256, tokens=20 * 256, seed=1)


def same(one: SparseAutoencoder, other: SparseAutoencoder) -> bool:
    names = ("encoder", "encoder_bias", "decoder", "decoder_bias")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names) and (
        one.threshold is other.threshold is None
        or (one.threshold is not None and other.threshold is not None and torch.equal(one.threshold, other.threshold))
    )


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka", "jumprelu"])
def test_planted_directions_are_found(architecture: SaeArchitecture) -> None:
    settings = SaeSettings(architecture=architecture, features=48, k=3, batch=256, tokens=300 * 256, learning_rate=0.01)
    sae = train_sae(source(), settings)
    values, _ = planted_tokens(2000, seed=5)
    found = fidelity(sae, Spans(values=values, offsets=torch.arange(0, 2001, 4)))
    assert isinstance(found.fvu, Measured)
    assert isinstance(found.l0, Measured)
    assert found.fvu.value < (0.15 if architecture == "matryoshka" else 0.1)
    assert abs(found.l0.value - 3) < 0.5
    assert float(best_cosines(sae).median()) > (0.8 if architecture == "matryoshka" else 0.95)
    untrained = train_sae(source(), settings.model_copy(update={"tokens": 256, "learning_rate": 1e-9}))
    assert float(best_cosines(untrained).median()) < 0.7
    assert torch.allclose(norms(sae.decoder), torch.ones(48), atol=1e-5)
    assert (sae.threshold is None) == (architecture == "topk")


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    first = train_sae(source(), SHORT)
    assert same(first, train_sae(source(), SHORT))
    assert not same(first, train_sae(source(), SHORT.model_copy(update={"seed": 2})))


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A source whose machine dies after some batches of training."""

    whole: MemoryTokens
    after: int

    @property
    def site(self) -> Site:
        return self.whole.site

    @property
    def origin(self) -> SaeOrigin:
        return self.whole.origin

    @property
    def d_model(self) -> int:
        return self.whole.d_model

    @property
    def n_tokens(self) -> int:
        return self.whole.n_tokens

    def batches(self, size: int, *, seed: int, epoch: int) -> Iterator[Tensor]:
        for number, batch in enumerate(self.whole.batches(size, seed=seed, epoch=epoch)):
            if epoch * (self.n_tokens // size) + number == self.after:
                raise KeyboardInterrupt
            yield batch


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "matryoshka"])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path: Path, architecture: SaeArchitecture) -> None:
    settings = SHORT.model_copy(update={"architecture": architecture, "dead_after": 256})
    tokens = source(12 * 256)  # the run crosses the end of the first epoch
    straight = train_sae(tokens, settings, tmp_path / "straight", checkpoint_every=6)
    with pytest.raises(KeyboardInterrupt):
        train_sae(Cut(whole=tokens, after=15), settings, tmp_path / "cut", checkpoint_every=6)
    assert (tmp_path / "cut" / CHECKPOINT_FILE).exists()
    assert not (tmp_path / "cut" / CONFIG_FILE).exists()
    steps: list[int] = []
    resumed = train_sae(
        tokens, settings, tmp_path / "cut", checkpoint_every=6, progress=lambda done, total: steps.append(done)
    )
    assert steps == list(range(13, 21))
    assert same(straight, resumed)
    names = [CONFIG_FILE, METRICS_FILE, "sae_weights.safetensors"]
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == names
    for name in names:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_a_finished_folder_is_read_and_another_run_is_refused(tmp_path: Path) -> None:
    made = train_sae(source(), SHORT, tmp_path)
    calls: list[int] = []
    again = train_sae(source(), SHORT, tmp_path, progress=lambda done, total: calls.append(done))
    assert same(made, again)
    assert calls == []
    assert again.card.training is not None
    assert (again.card.training.settings, again.card.training.steps) == (SHORT, 20)
    with pytest.raises(StorageError, match="other settings or data"):
        train_sae(source(), SHORT.model_copy(update={"k": 4}), tmp_path)
    with pytest.raises(StorageError, match="other settings or data"):
        train_sae(replace(source(), origin=replace(HOST, data_hash="00")), SHORT, tmp_path)


def test_a_checkpoint_of_another_run_or_a_torn_one_is_refused(tmp_path: Path) -> None:
    tokens = source(12 * 256)
    with pytest.raises(KeyboardInterrupt):
        train_sae(Cut(whole=tokens, after=15), SHORT, tmp_path, checkpoint_every=10)
    with pytest.raises(StorageError, match="other settings or data"):
        train_sae(tokens, SHORT.model_copy(update={"seed": 5}), tmp_path)
    path = tmp_path / CHECKPOINT_FILE
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(StorageError, match="damaged"):
        train_sae(tokens, SHORT, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Late(Cut):
        def batches(self, size: int, *, seed: int, epoch: int) -> Iterator[Tensor]:
            for number, batch in enumerate(self.whole.batches(size, seed=seed, epoch=epoch)):
                yield batch * torch.inf if epoch and number == 3 else batch

    late = Late(whole=source(8 * 256), after=0)
    with pytest.raises(TrainingError, match=rf"at step 12 of 20; the last checkpoint stays in .*{CHECKPOINT_FILE}"):
        train_sae(late, SHORT, tmp_path, checkpoint_every=10)
    assert (tmp_path / CHECKPOINT_FILE).exists()


def test_auxk_revives_features_that_never_fire() -> None:
    tokens = planted_tokens(2048)[0]
    settings = SaeSettings(architecture="batchtopk", features=48, k=2, batch=256)

    def after_training(auxiliary: float) -> float:
        rows = torch.nn.functional.normalize(noise(48, WIDTH, seed=3), dim=1)
        bias = torch.zeros(48)
        bias[8:] = -5.0  # five sixths of the features see too little to be chosen
        made = {"encoder": rows.clone(), "encoder_bias": bias, "decoder": rows.clone(), "decoder_bias": tokens.mean(0)}
        leaves = {name: w.requires_grad_() for name, w in {**made, "threshold": torch.zeros(0)}.items()}
        weights, since = Weights(**leaves), torch.zeros(48)
        optimiser = torch.optim.Adam(leaves.values(), lr=0.02)
        config = settings.model_copy(update={"auxiliary": auxiliary})
        for number in range(300):
            batch = tokens[number % 8 * 256 : (number % 8 + 1) * 256]
            found = step_loss(weights, batch, config, variance=18.6, dead=since > 1024)
            optimiser.zero_grad()
            found.loss.backward()
            optimiser.step()
            with torch.no_grad():
                weights.decoder.div_(norms(weights.decoder)[:, None])
            since = torch.where(found.fired, 0, since + 256)
        return float((since > 1024).float().mean())

    assert after_training(0.0) == pytest.approx(40 / 48)
    assert after_training(1 / 32) < 0.4


def test_the_log_tells_the_story(tmp_path: Path) -> None:
    train_sae(source(), SHORT.model_copy(update={"tokens": 50 * 256}), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40, 50]
    assert lines[0].keys() == {"step", "tokens", "loss", "fvu", "l0", "dead"}
    assert lines[-1]["fvu"] < lines[0]["fvu"]
    trained = load_sae(tmp_path).card.training
    assert trained is not None
    assert (trained.tokens, trained.fvu) == (50 * 256, lines[-1]["fvu"])


def test_scale_and_centre_of_the_tokens_do_not_matter() -> None:
    plain, moved = source(), source()
    moved = replace(moved, values=moved.values * 64)
    one, other = train_sae(plain, SHORT), train_sae(moved, SHORT)
    assert torch.allclose(one.decoder, other.decoder, atol=1e-4)
    values = planted_tokens(50, seed=3)[0]
    assert torch.allclose(one.encode(values) * 64, other.encode(values * 64), atol=0.05)
    assert torch.allclose(one.decoder_bias * 64, other.decoder_bias, rtol=1e-2, atol=0.05)


def test_there_are_more_directions_than_dimensions() -> None:
    assert DIRECTIONS > WIDTH  # or finding them would be linear algebra


def test_too_few_tokens_and_tokens_that_do_not_vary_are_refused() -> None:
    with pytest.raises(DataError, match="100 tokens for batches of 256"):
        train_sae(source(100), SHORT)
    with pytest.raises(DataError, match=r"mean distance from their centre is 0\.0"):
        train_sae(replace(source(), values=torch.ones(1000, WIDTH)), SHORT)
    with pytest.raises(DataError, match="mean distance from their centre is nan"):
        train_sae(replace(source(), values=torch.full((1000, WIDTH), torch.inf)), SHORT)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    settings = SHORT.model_copy(update={"warm_up": 0.1, "decay": 0.5})
    plan = Plan(steps=100, per_epoch=10, peak=2.0, dead_after=1)
    rates = [learning_rate(plan, settings, step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert rates[10:51] == [2.0] * 41
    assert rates[51:] == pytest.approx([2.0 * (100 - step) / 50 for step in range(51, 100)])
    assert default_rate(16384, 60_000) == default_rate(16384, 10**6) == 2e-4
    assert default_rate(1024, 100) == pytest.approx(2e-4 * 4 * 8)
    assert plan_of(SHORT, 1000) == Plan(steps=20, per_epoch=3, peak=default_rate(48, 20), dead_after=512)


def test_a_few_far_tokens_do_not_move_the_centre() -> None:
    values = planted_tokens(2000)[0]
    outliers = torch.cat([values, torch.full((20, WIDTH), 1e4)])
    assert float((geometric_median(outliers) - geometric_median(values)).norm()) < 0.2
    assert float((outliers.mean(0) - values.mean(0)).norm()) > 100
    centre = geometric_median(values)
    pull = torch.nn.functional.normalize(values - centre, dim=1).mean(0)
    assert float(pull.norm()) < 1e-3


def test_memory_tokens_are_shuffled_and_whole() -> None:
    values = torch.arange(40.0)[:, None].expand(-1, 3)
    tokens = MemoryTokens(values=values, site=Site(0), origin=HOST)
    first, second = (torch.cat(list(tokens.batches(12, seed=0, epoch=epoch)))[:, 0] for epoch in (0, 1))
    assert len(first) == 36
    assert len(set(first.tolist())) == 36
    assert first.tolist() != sorted(first.tolist())
    assert first.tolist() != second.tolist()
    assert torch.equal(torch.cat(list(tokens.batches(12, seed=0, epoch=0)))[:, 0], first)


def test_a_store_feeds_training_and_its_hashes_reach_the_card(tmp_path: Path) -> None:
    lm = language_model("llama")
    generator = torch.Generator().manual_seed(0)
    rows = [
        Selected(
            input_ids=tuple(torch.randint(6, 300, (20,), generator=generator).tolist()),
            positions=tuple(range(2, 20)),
            source=index,
        )
        for index in range(40)
    ]
    settings = CaptureSettings(data="rows", dtype="float32", shard_tokens=300)
    capture_store(lm, rows, [Site(1)], tmp_path / "store", settings)
    tokens: TokenSource = StoreTokens(store=Store.open(tmp_path / "store", lm), site=Site(1))
    assert isinstance(tokens, TokenSource)
    assert (tokens.n_tokens, tokens.d_model) == (40 * 18, 32)
    assert [len(batch) for batch in tokens.batches(100, seed=0, epoch=0)] == [100] * 7
    wanted = SaeSettings(architecture="topk", features=40, k=4, batch=100, tokens=2000)
    sae = train_sae(tokens, wanted, tmp_path / "sae")
    origin = load_sae(tmp_path / "sae").card.origin
    assert origin == sae.card.origin == tokens.origin
    assert (origin.model, origin.model_hash) == ("llama", lm.content_hash)
    assert origin.tokenizer_hash == tokenizer_hash(lm.tokenizer)
    assert origin.data_hash is not None
    assert origin.selection_hash is not None


def test_tokens_of_spans_carry_their_provenance() -> None:
    lm = language_model("llama")
    spans = Spans(values=torch.randn(6, 32), offsets=torch.tensor([0, 2, 6]))
    made = tokens_of(spans, lm, Site(1), data="six tokens")
    assert made.origin.model_hash == lm.content_hash
    assert (
        made.origin.data_hash
        != tokens_of(replace(spans, values=spans.values + 1), lm, Site(1), data="").origin.data_hash
    )
    with pytest.raises(DataError, match="not finite"):
        tokens_of(replace(spans, values=spans.values / 0), lm, Site(1), data="six tokens")
