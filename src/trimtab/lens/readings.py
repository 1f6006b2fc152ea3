"""Reading rows through the frozen host: what each row looks like inside, and where it pulls.

One forward pass and a backward pass to activations; no weight gradient is ever formed. Row figures are means over the
row's learned tokens: activations are read *at* a learned token, gradients where that token is *predicted* (one
position before), because that is the state whose change would change the prediction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from trimtab.data.batches import Batch, batches, pad_id
from trimtab.data.template import encode_rows as encode_training_rows
from trimtab.data.template import messages_of
from trimtab.errors import ModelError
from trimtab.model.capture import activation_gradients, capture
from trimtab.model.host import LanguageModel
from trimtab.records.rows import ChatRow
from trimtab.records.site import Site
from trimtab.records.training import IGNORED, Encoded, TrainingRow

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Readings:
    """Rows as the host sees them.

    Attributes:
        activations: Mean activation over learned tokens, by site: float32 ``[row, d_model]``.
        predicting: Mean activation over the positions that predict learned tokens, by site: ``[row, d_model]``.
        gradients: Mean of ``dL/dh`` over the positions that predict learned tokens, by site, with ``L`` the *sum* of
            token losses of the row: float32 ``[row, d_model]``; empty if gradients were not asked for.
        losses: Mean loss over learned tokens, nats: ``[row]``; ``None`` if gradients were not asked for.
        token_pushes: With directions given: per row float32 ``[token, concept]``, entry ``[t, c]`` is
            ``-<g, d_c>`` where token ``t`` is predicted; zero where it is not learned.
        encoded: The rows as they were read.
    """

    activations: Mapping[Site, Float[Tensor, "row d_model"]]
    predicting: Mapping[Site, Float[Tensor, "row d_model"]]
    gradients: Mapping[Site, Float[Tensor, "row d_model"]]
    losses: Float[Tensor, " row"] | None
    token_pushes: tuple[NDArray[np.float32], ...]
    encoded: tuple[Encoded, ...]

    @property
    def n_tokens(self) -> int:
        """Learned tokens over all rows."""
        return sum(label != IGNORED for row in self.encoded for label in row.labels)


def encode_rows(
    lm: LanguageModel, rows: Sequence[ChatRow], *, max_length: int, file: str = "<rows>", lines: Sequence[int] = ()
) -> tuple[Encoded, ...]:
    """Tokenise rows with the model's chat template; the arguments and errors of ``data.template.encode_rows``."""
    turns = [TrainingRow(messages=messages_of(row), source=index) for index, row in enumerate(rows)]
    return encode_training_rows(lm.tokenizer, turns, max_length=max_length, file=file, lines=lines)


def ids_hash(encoded: Encoded) -> str:
    """Short hash of a row's token ids."""
    return hashlib.sha256(np.asarray(encoded.input_ids, dtype=np.int64).tobytes()).hexdigest()[:16]


def _means(values: Float[Tensor, "batch token d_model"], mask: Tensor) -> Float[Tensor, "batch d_model"]:
    weights = mask.to(torch.float32)
    return torch.einsum("btd,bt->bd", values.float(), weights) / weights.sum(1, keepdim=True).clamp_min(1.0)


def read_rows(
    lm: LanguageModel,
    encoded: Sequence[Encoded],
    sites: Sequence[Site],
    *,
    gradients: bool = True,
    directions: tuple[Site, Float[Tensor, "concept d_model"]] | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Readings:
    """Read rows at some sites.

    Args:
        lm: The model that reads, a frozen host except where a verifier reads a student.
        encoded: Tokenised rows.
        sites: Where to read.
        gradients: Whether to run the backward pass.
        directions: A site among ``sites`` and unit directions whose token pushes are wanted.
        batch_size: Rows in one pass.
        progress: Called with rows done and rows in all.

    Raises:
        ModelError: If an activation or gradient is not finite.
    """
    count = len(encoded)
    kept = {site: torch.zeros(count, lm.d_model) for site in sites}
    before = {site: torch.zeros(count, lm.d_model) for site in sites}
    grads = {site: torch.zeros(count, lm.d_model) for site in sites} if gradients else {}
    losses = torch.zeros(count)
    pushes: list[NDArray[np.float32]] = [np.zeros((0, 0), np.float32)] * (count if directions else 0)
    done = 0
    for indices, batch in batches(encoded, pad_id(lm.tokenizer), batch_size=batch_size):
        batch = batch.to(lm.device)
        learned = batch.labels != IGNORED
        predicting = torch.nn.functional.pad(learned[:, 1:], (0, 1))
        where = list(indices)
        if gradients:
            got = activation_gradients(lm, batch.input_ids, batch.attention_mask, batch.labels, sites)
            for site in sites:
                grads[site][where] = _means(got.gradients[site], predicting).cpu()
            losses[where] = (got.token_losses.float().sum(1) / learned.sum(1).clamp_min(1)).cpu()
            activations = got.activations
            if directions is not None:
                _token_pushes(pushes, where, got.gradients[directions[0]], directions[1], batch, encoded)
        else:
            activations = capture(lm, batch.input_ids, batch.attention_mask, sites)
        for site in sites:
            kept[site][where] = _means(activations[site], learned).cpu()
            before[site][where] = _means(activations[site], predicting).cpu()
        done += len(where)
        if progress is not None:
            progress(done, count)
    _check_finite(
        lm, {**{f"activation at {s}": v for s, v in kept.items()}, **{f"gradient at {s}": v for s, v in grads.items()}}
    )
    return Readings(
        activations=kept,
        predicting=before,
        gradients=grads,
        losses=losses if gradients else None,
        token_pushes=tuple(pushes),
        encoded=tuple(encoded),
    )


def _token_pushes(
    pushes: list[NDArray[np.float32]],
    where: Sequence[int],
    gradients: Float[Tensor, "batch token d_model"],
    directions: Float[Tensor, "concept d_model"],
    batch: Batch,
    encoded: Sequence[Encoded],
) -> None:
    moved = -(gradients.float() @ directions.to(gradients.device).float().T)
    moved = torch.nn.functional.pad(moved[:, :-1], (0, 0, 1, 0)) * (batch.labels != IGNORED)[..., None]
    for place, index in enumerate(where):
        pushes[index] = moved[place, : len(encoded[index].input_ids)].cpu().numpy().astype(np.float32)


def _check_finite(lm: LanguageModel, values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        bad = cast("list[int]", (~torch.isfinite(value).all(1)).nonzero().flatten().tolist())
        if bad:
            raise ModelError(
                f"{name} of {lm.name} is not finite on {len(bad)} rows (first: row {bad[0]})",
                allowed="finite activations and gradients",
                todo="load the host in float32, or look at those rows",
            )
