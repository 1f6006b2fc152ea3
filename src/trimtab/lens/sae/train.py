"""Training of sparse autoencoders: seeded, resumable to the bit, and never silent about a loss that is not finite."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.errors import DataError, StorageError, TrainingError
from trimtab.lens.directions import norms
from trimtab.lens.sae.checkpoint import CHECKPOINT_FILE, State, load_state, run_identity, save_state
from trimtab.lens.sae.format import CONFIG_FILE, load_sae, save_sae
from trimtab.lens.sae.losses import StepLoss, Weights, all_preactivations, step_loss
from trimtab.lens.sae.model import SparseAutoencoder
from trimtab.lens.sae.source import TokenSource
from trimtab.lens.sae.sparse import batch_threshold
from trimtab.records.io import append_line, write_bytes
from trimtab.records.sae import SaeCard, SaeSettings, SaeTraining

Progress: TypeAlias = Callable[[int, int], None]

METRICS_FILE: Final = "metrics.jsonl"
LOG_EVERY: Final = 20
FIRST_TOKENS: Final = 16_384
"""Tokens from which the centre, the scale and the first thresholds are taken."""

THRESHOLD_BATCHES: Final = 64
"""Batches over which the threshold of inference is averaged."""

MEDIAN_STEPS: Final = 64
LONG_RUN: Final = 60_000
MOST_BOOST: Final = 8.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run in numbers.

    Attributes:
        steps: Optimiser steps.
        per_epoch: Steps in one pass over the tokens.
        peak: Highest learning rate.
        dead_after: Tokens without firing after which a feature is dead.
    """

    steps: int
    per_epoch: int
    peak: float
    dead_after: int


def plan_of(settings: SaeSettings, n_tokens: int) -> Plan:
    """The run that settings ask for.

    Raises:
        DataError: If the tokens do not fill a batch.
    """
    tokens = settings.tokens or n_tokens
    if min(tokens, n_tokens) < settings.batch:
        raise DataError(
            f"{min(tokens, n_tokens)} tokens for batches of {settings.batch}",
            allowed="at least one batch of tokens",
            todo="read more rows, or set batch lower",
        )
    return Plan(
        steps=tokens // settings.batch,
        per_epoch=n_tokens // settings.batch,
        peak=settings.learning_rate or default_rate(settings.features, tokens // settings.batch),
        dead_after=settings.dead_after or max(settings.batch, tokens // 10),
    )


def default_rate(features: int, steps: int) -> float:
    """``0.0002 / sqrt(features / 16384)`` (2406.04093), and up to ``MOST_BOOST`` times that for short runs.

    A run of few steps does not get where a long one does unless its steps are longer. The factor
    ``sqrt(LONG_RUN / steps)`` is ours; on the lab's activations it lowers the FVU of 300 to 1,200 steps by a third.
    """
    boost = min(MOST_BOOST, max(1.0, math.sqrt(LONG_RUN / max(1, steps))))
    return 2e-4 / math.sqrt(features / 2**14) * boost


def learning_rate(plan: Plan, settings: SaeSettings, step: int) -> float:
    """Linear rise, plateau, linear fall towards zero."""
    rise, fall = settings.warm_up * plan.steps, settings.decay * plan.steps
    return plan.peak * min(1.0, (step + 1) / max(rise, 1.0), (plan.steps - step) / max(fall, 1.0))


def train_sae(
    source: TokenSource,
    settings: SaeSettings,
    folder: Path | None = None,
    *,
    device: torch.device | str = "cpu",
    checkpoint_every: int = 500,
    progress: Progress | None = None,
) -> SparseAutoencoder:
    """Train a sparse autoencoder.

    Interrupted, the same call goes on from the last checkpoint and ends with the same weights, bit for bit (on a CPU,
    with the same number of threads).

    Args:
        source: The tokens.
        settings: What to train.
        folder: Where checkpoints, ``metrics.jsonl`` and at the end the autoencoder go; ``None`` keeps nothing. A folder
            that holds this very run, finished, is read and nothing is trained.
        device: Where to compute.
        checkpoint_every: Steps between checkpoints.
        progress: Called with steps done and steps in all.

    Raises:
        DataError: If the tokens do not fill a batch, or do not vary.
        TrainingError: If the loss is not finite; the last checkpoint stays.
        StorageError: If the folder cannot be written, or holds another run.
    """
    plan = plan_of(settings, source.n_tokens)
    identity = run_identity(settings, source)
    finished = None if folder is None else _finished(folder, settings, source)
    if finished is not None:
        return finished
    run = Run(source, settings, plan, torch.device(device))
    state = None if folder is None else load_state(folder, identity)
    if state is not None:
        run.take_up(state)
    if folder is not None:
        _drop_later_lines(folder / METRICS_FILE, run.step)
    for tokens in run.batches():
        found = run.advance(tokens, kept_at=None if folder is None else folder / CHECKPOINT_FILE)
        if folder is not None and (run.step % LOG_EVERY == 0 or run.step == plan.steps):
            append_line(folder / METRICS_FILE, json.dumps(run.line(found)).encode())
        if folder is not None and run.step % checkpoint_every == 0 and run.step < plan.steps:
            save_state(run.state(), folder, identity)
        if progress is not None:
            progress(run.step, plan.steps)
    sae = run.autoencoder()
    if folder is not None:
        save_sae(sae, folder)
        (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    return sae


def _finished(folder: Path, settings: SaeSettings, source: TokenSource) -> SparseAutoencoder | None:
    """The autoencoder of this very run, if the folder holds it."""
    if not (folder / CONFIG_FILE).exists():
        return None
    sae = load_sae(folder)
    same = (settings, source.site, source.origin)
    if sae.card.training is None or (sae.card.training.settings, sae.site, sae.card.origin) != same:
        raise StorageError(
            f"{folder} holds an autoencoder of other settings or data",
            allowed="an empty folder, or one of the same settings and data",
            todo="choose another folder",
        )
    return sae


def _drop_later_lines(path: Path, step: int) -> None:
    """Cut a log back to where training resumes."""
    if path.exists():
        lines = [line for line in path.read_bytes().splitlines() if json.loads(line)["step"] <= step]
        write_bytes(path, b"".join(line + b"\n" for line in lines))


def geometric_median(values: Float[Tensor, "token d_model"]) -> Float[Tensor, " d_model"]:
    """The point with the least mean distance to all (Weiszfeld's iteration); a few far tokens do not move it."""
    point = values.mean(0)
    for _ in range(MEDIAN_STEPS):
        weights = 1 / norms(values - point).clamp_min(1e-8)
        moved = (values * weights[:, None]).sum(0) / weights.sum()
        if float((moved - point).abs().max()) <= 1e-6 * float(point.abs().max()):
            return moved
        point = moved
    return point


class Run:
    """Training step by step: weights, optimiser, counters.

    Args:
        source: The tokens; the first of them set the centre, the scale and the first weights.
        settings: What to train.
        plan: ``plan_of`` the settings.
        device: Where to compute.

    Attributes:
        step: Optimiser steps taken.
    """

    def __init__(self, source: TokenSource, settings: SaeSettings, plan: Plan, device: torch.device) -> None:
        self._source, self._settings, self._plan, self._device = source, settings, plan, device
        sample = self._sample()
        centre = geometric_median(sample)
        self._scale = self._scale_of(sample, centre)
        self._variance = float((sample - sample.mean(0)).square().sum(1).mean()) * self._scale**2
        self._weights = self._first_weights(sample * self._scale, centre * self._scale)
        self._since_fired: Int[Tensor, " feature"] = torch.zeros(settings.features, dtype=torch.int64, device=device)
        self._optimiser = torch.optim.Adam(self._weights.named().values(), eps=6.25e-10, fused=True)
        self._last_fvu = 1.0
        self.step = 0

    def _sample(self) -> Float[Tensor, "token d_model"]:
        count = -(-min(FIRST_TOKENS, self._plan.per_epoch * self._settings.batch) // self._settings.batch)
        first = islice(self._source.batches(self._settings.batch, seed=self._settings.seed, epoch=0), count)
        return torch.cat([batch.to(self._device, torch.float32) for batch in first])

    def _scale_of(self, sample: Float[Tensor, "token d_model"], centre: Float[Tensor, " d_model"]) -> float:
        """What brings the mean distance from the centre to ``sqrt(d_model)``."""
        spread = float(norms(sample - centre).mean())
        if not (math.isfinite(spread) and spread > 0):
            raise DataError(
                f"training tokens whose mean distance from their centre is {spread}",
                allowed="finite activations that are not all the same",
                todo="check what was captured, and the host's numerics (try float32)",
            )
        return math.sqrt(self._source.d_model) / spread

    def _first_weights(self, sample: Float[Tensor, "token d_model"], centre: Float[Tensor, " d_model"]) -> Weights:
        """Random unit decoder rows, the encoder tied to them at the size that rebuilds the sample best."""
        settings = self._settings
        generator = torch.Generator().manual_seed(settings.seed)
        rows = torch.randn(settings.features, self._source.d_model, generator=generator).to(self._device)
        decoder = torch.nn.functional.normalize(rows, dim=1)
        bias = torch.zeros(settings.features, device=self._device)
        inputs = sample[: settings.batch] - centre
        seen = inputs @ decoder.T
        bar = batch_threshold(seen, settings.k)
        rebuilt = (seen * (seen >= bar)) @ decoder
        size = float((rebuilt * inputs).sum() / rebuilt.square().sum().clamp_min(1e-12))
        jumprelu = settings.architecture == "jumprelu"
        threshold = torch.full((settings.features if jumprelu else 0,), bar * size, device=self._device)
        made = {"encoder": decoder * size, "encoder_bias": bias, "decoder": decoder, "threshold": threshold}
        return Weights(**{name: w.requires_grad_() for name, w in {**made, "decoder_bias": centre}.items()})

    def batches(self) -> Iterator[Float[Tensor, "token d_model"]]:
        """The batches that are left, scaled."""
        for epoch in range(self.step // self._plan.per_epoch, -(-self._plan.steps // self._plan.per_epoch)):
            start = self.step - epoch * self._plan.per_epoch
            stop = self._plan.steps - epoch * self._plan.per_epoch
            source = self._source.batches(self._settings.batch, seed=self._settings.seed, epoch=epoch)
            for tokens in islice(source, start, stop):
                yield tokens.to(self._device, torch.float32) * self._scale

    def advance(self, tokens: Float[Tensor, "token d_model"], *, kept_at: Path | None) -> StepLoss:
        """One optimiser step."""
        weights, settings = self._weights, self._settings
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(self._plan, settings, self.step)
        dead = self._since_fired > self._plan.dead_after
        found = step_loss(weights, tokens, settings, variance=self._variance, dead=dead)
        if not bool(found.loss.isfinite()):
            raise TrainingError(
                f"loss {float(found.loss.detach())} at step {self.step + 1} of {self._plan.steps}"
                + (f"; the last checkpoint stays in {kept_at}" if kept_at is not None and kept_at.exists() else ""),
                allowed="a finite loss",
                todo="lower learning_rate, or look for activations that are not finite",
            )
        self._optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(found.loss)
        self._keep_decoder_on_the_sphere(before=True)
        torch.nn.utils.clip_grad_norm_(weights.named().values(), settings.max_grad_norm)
        self._optimiser.step()
        self._keep_decoder_on_the_sphere(before=False)
        self._since_fired = torch.where(found.fired, 0, self._since_fired + len(tokens))
        self._last_fvu = float(found.fvu)
        self.step += 1
        return found

    @torch.no_grad()
    def _keep_decoder_on_the_sphere(self, *, before: bool) -> None:
        """Before a step: no gradient along a row. After it: rows of norm 1 and thresholds not below zero."""
        rows, grad = self._weights.decoder, self._weights.decoder.grad
        if before and grad is not None:
            grad.sub_((grad * rows).sum(1, keepdim=True) * rows)
        if not before:
            rows.div_(norms(rows)[:, None])
            self._weights.threshold.clamp_(min=0.0)

    def line(self, found: StepLoss) -> dict[str, float | int]:
        """One line of the log."""
        return {
            "step": self.step,
            "tokens": self.step * self._settings.batch,
            "loss": float(found.loss.detach()),
            "fvu": float(found.fvu),
            "l0": float(found.l0),
            "dead": float((self._since_fired > self._plan.dead_after).float().mean()),
        }

    def state(self) -> State:
        """All that the next step depends on."""
        tensors = {f"weight.{name}": weight for name, weight in self._weights.named().items()}
        for name, weight in self._weights.named().items():
            for moment, value in self._optimiser.state[weight].items():
                tensors[f"adam.{name}.{moment}"] = value
        return State(step=self.step, tensors={**tensors, "since_fired": self._since_fired})

    @torch.no_grad()
    def take_up(self, state: State) -> None:
        """Go on from a checkpoint."""
        for name, weight in self._weights.named().items():
            weight.copy_(state.tensors[f"weight.{name}"])
            moments = [key for key in state.tensors if key.startswith(f"adam.{name}.")]
            self._optimiser.state[weight] = {key.rpartition(".")[2]: state.tensors[key] for key in moments}
        self._since_fired = state.tensors["since_fired"].to(self._device)
        self.step = state.step

    @torch.no_grad()
    def _inference_threshold(self) -> float:
        """Mean over batches of the lowest activation that batch-wise selection lets through (2412.06410, eq. 5)."""
        source = self._source.batches(self._settings.batch, seed=self._settings.seed, epoch=0)
        bars: list[float] = []
        for tokens in islice(source, THRESHOLD_BATCHES):
            inputs = tokens.to(self._device, torch.float32) * self._scale - self._weights.decoder_bias
            bars.append(batch_threshold(all_preactivations(self._weights, inputs), self._settings.k))
        return sum(bars) / len(bars)

    def autoencoder(self) -> SparseAutoencoder:
        """The autoencoder of unscaled tokens; decoder rows keep norm 1."""
        settings, weights = self._settings, {name: w.detach() for name, w in self._weights.named().items()}
        topk, threshold = settings.architecture == "topk", weights["threshold"] / self._scale
        if settings.architecture != "jumprelu":
            threshold = torch.full_like(weights["encoder_bias"], self._inference_threshold() / self._scale)
        trained = SaeTraining(
            settings=settings,
            tokens=self.step * settings.batch,
            steps=self.step,
            fvu=self._last_fvu,
            version=version("trimtab"),
            bar=float(threshold[0]) if topk else None,
        )
        return SparseAutoencoder(
            card=SaeCard(
                activation="topk" if topk else "jumprelu",
                k=settings.k if topk else None,
                site=self._source.site,
                origin=self._source.origin,
                training=trained,
            ),
            encoder=weights["encoder"].T.contiguous(),
            encoder_bias=weights["encoder_bias"] / self._scale,
            decoder=weights["decoder"],
            decoder_bias=weights["decoder_bias"] / self._scale,
            threshold=None if topk else threshold,
        )
