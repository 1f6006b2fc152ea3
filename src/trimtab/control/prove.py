"""Proof, on the model at hand and before training starts, that a control changes what it says and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.control.base import Dosed
from trimtab.data.batches import Batch, collate, pad_id
from trimtab.data.template import encode
from trimtab.errors import SelfCheckError, UsageError
from trimtab.model.host import Host
from trimtab.model.sites import layers
from trimtab.records.proof import Proof
from trimtab.records.rows import Message
from trimtab.records.training import IGNORED, Encoded, Surface, TrainingRow
from trimtab.roles import Control

_MAY: Final[dict[Surface, frozenset[str]]] = {
    "data": frozenset({"rows added", "rows dropped"}),
    "prompt": frozenset({"rows changed", "rows added"}),
    "loss": frozenset({"labels masked"}),
    "activations": frozenset({"logits moved", "gradients moved"}),
    "gradient": frozenset({"gradients moved"}),
}
"""What each surface may change."""

_MUST: Final[dict[Surface, frozenset[str]]] = {
    "data": frozenset({"rows added", "rows dropped"}),
    "prompt": frozenset({"rows changed"}),
    "loss": frozenset({"labels masked"}),
    "activations": frozenset({"logits moved"}),
    "gradient": frozenset({"gradients moved"}),
}
"""Of which each surface must change at least one, unless the control is at strength 0."""


def prove(
    control: Control, host: Host, rows: Sequence[TrainingRow], *, max_length: int = 512, n_rows: int = 4
) -> Proof:
    """Check a control against its declared surface, on a throw-away student.

    Rows are rewritten in full; tokens and the model are checked on the first ``n_rows`` rows (for the surface
    ``loss``, on as many more as it takes to meet a masked label). The model is read four times: twice untouched, for
    what two identical passes differ by; once attached; once after detaching.

    Args:
        control: The control.
        host: The frozen host; a copy of it is hooked.
        rows: The user's rows.
        max_length: Longest conversation in tokens.
        n_rows: Rows that run through the model.

    Raises:
        SelfCheckError: If the control changed too much, or nothing at all, or did not come off clean.
        UsageError: If there are no rows.
        DataError: If a row is longer than ``max_length``.
    """
    if not rows:
        raise UsageError("no rows to prove a control on", allowed="at least one row", todo="pass the training rows")
    if control.surface not in _MAY:
        raise UsageError(
            f"control {control.name!r} on surface {control.surface!r}",
            allowed=f"surfaces that can be proven: {', '.join(_MAY)}",
            todo="declare the surface that the control works on",
        )
    changes = _row_changes(control, rows, host.tokenizer, max_length, n_rows)
    encoded, masked, faults = _label_changes(control, rows, host.tokenizer, max_length, n_rows)
    reading = _read(control, host.student(), collate(encoded[:n_rows], pad_id(host.tokenizer)).to(host.device))
    found: dict[str, int | float] = {
        "rows changed": changes.changed,
        "rows added": changes.added,
        "rows dropped": changes.dropped,
        "labels masked": masked,
        "logits moved": reading.logits_moved,
        "gradients moved": reading.gradients_moved,
    }
    _judge(control, found, [*changes.faults, *faults, *reading.faults])
    moved = [f"{what} {amount:g}" for what, amount in found.items() if amount]
    return Proof(
        control=control.name,
        surface=control.surface,
        rows_changed=changes.changed,
        rows_added=changes.added,
        rows_dropped=changes.dropped,
        labels_masked=masked,
        logits_moved=reading.logits_moved,
        gradients_moved=reading.gradients_moved,
        restored=True,
        ok=True,
        note=f"{', '.join(moved) or 'nothing changed'}, and nothing else; as before after detaching",
    )


def _judge(control: Control, found: dict[str, int | float], faults: list[str]) -> None:
    inert = isinstance(control, Dosed) and control.strength == 0
    may = frozenset[str]() if inert else _MAY[control.surface]
    faults = [*faults, *(f"{what}: {amount:g}" for what, amount in found.items() if amount and what not in may)]
    must = _MUST[control.surface]
    if not inert and not any(found[what] for what in must):
        faults.append(f"nothing changed ({' or '.join(sorted(must))} expected)")
    if faults:
        raise SelfCheckError(
            f"control {control.name!r} on surface {control.surface!r}: {'; '.join(faults)}",
            allowed=f"changes: {', '.join(sorted(may)) or 'none'}",
            todo="do not train with it; check its options, or correct the control",
        )


@dataclass(frozen=True, kw_only=True)
class _RowChanges:
    changed: int
    added: int
    dropped: int
    faults: tuple[str, ...]


def _row_changes(
    control: Control, rows: Sequence[TrainingRow], tokenizer: PreTrainedTokenizerBase, max_length: int, n_rows: int
) -> _RowChanges:
    """Compare rows before and after: kept in order, assistant turns untouched, the same result twice."""
    held = [_turns(row.messages) for row in rows]
    after = list(control.rewrite(rows))
    faults: list[str] = []
    if [_turns(row.messages) for row in rows] != held:
        faults.append("rewrite edited the rows that it was given")
    if list(control.rewrite(rows)) != after:
        faults.append("rewrite gives other rows the second time")
    place = {row.source: n for n, row in enumerate(rows)}
    own = [row for row in after if row.source >= 0]
    order = [place.get(row.source, -1) for row in own]
    if -1 in order or order != sorted(set(order)):
        faults.append("rewrite repeats, reorders or invents rows of the data")
    changed = [(rows[n], row) for n, row in zip(order, own, strict=True) if n >= 0 and row.messages != rows[n].messages]
    faults += [f"row {old.source}: {fault}" for old, new in changed if (fault := _overreach(old, new))][:3]
    for old, new in changed[:n_rows]:
        if _encode(tokenizer, old, max_length).input_ids == _encode(tokenizer, new, max_length).input_ids:
            faults.append(f"row {old.source}: its tokens stay the same, so nothing reaches the model")
    return _RowChanges(
        changed=len(changed),
        added=len(after) - len(own),
        dropped=len(place) - len(set(order) - {-1}),
        faults=tuple(faults),
    )


def _turns(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in messages]


def _overreach(old: TrainingRow, new: TrainingRow) -> str | None:
    """What a rewrite did beyond adding text to system and user turns, if anything."""
    before = _turns(old.messages)
    after = _turns(new.messages)
    if len(after) == len(before) + 1 and after[0][0] == "system":
        after = after[1:]
    if [role for role, _ in after] != [role for role, _ in before]:
        return "turns were added, dropped or reordered"
    for (role, was), (_, now) in zip(before, after, strict=True):
        if role == "assistant" and was != now:
            return "an assistant turn was rewritten"
        if was not in now:
            return f"text of a {role} turn was lost"
    return None


def _encode(tokenizer: PreTrainedTokenizerBase, row: TrainingRow, max_length: int) -> Encoded:
    return encode(tokenizer, row.messages, max_length=max_length, source=row.source)


def _label_changes(
    control: Control, rows: Sequence[TrainingRow], tokenizer: PreTrainedTokenizerBase, max_length: int, n_rows: int
) -> tuple[list[Encoded], int, list[str]]:
    """Tokenised rows, labels masked among them, and what was done beyond masking."""
    encoded: list[Encoded] = []
    faults: list[str] = []
    masked = 0
    for row in rows:
        if len(encoded) >= n_rows and (masked or control.surface != "loss"):
            break
        old = _encode(tokenizer, row, max_length)
        new = control.relabel(old)
        encoded.append(old)
        if (new.input_ids, new.source, len(new.labels)) != (old.input_ids, old.source, len(old.labels)):
            faults.append(f"row {row.source}: relabel changed the tokens")
            continue
        pairs = [(was, now) for was, now in zip(old.labels, new.labels, strict=True) if was != now]
        masked += sum(now == IGNORED for _, now in pairs)
        if any(now != IGNORED for _, now in pairs):
            faults.append(f"row {row.source}: relabel changed a label to something other than ignored")
    return encoded, masked, faults


@dataclass(frozen=True, kw_only=True)
class _Reading:
    logits_moved: float
    gradients_moved: float
    faults: tuple[str, ...]


def _read(control: Control, student: PreTrainedModel, batch: Batch) -> _Reading:
    """Logits and first-layer gradients: untouched twice, attached, detached."""
    parameters = list(layers(student)[0].parameters())
    flags = [parameter.requires_grad for parameter in student.parameters()]
    logits, gradients = _pass(student, batch, parameters, nullcontext())
    _, again = _pass(student, batch, parameters, nullcontext())
    noise = _distance(gradients, again)
    during_logits, during = _pass(student, batch, parameters, control.attach(student))
    after_logits, after = _pass(student, batch, parameters, nullcontext())
    faults: list[str] = []
    if not torch.equal(after_logits, logits) or _distance(gradients, after) > noise:
        faults.append("logits or gradients stay changed after detaching")
    if [parameter.requires_grad for parameter in student.parameters()] != flags:
        faults.append("it left parameters frozen or thawed")
    moved = _distance(gradients, during)
    return _Reading(
        logits_moved=_distance([logits], [during_logits]),
        gradients_moved=moved if moved > noise else 0.0,
        faults=tuple(faults),
    )


def _pass(
    student: PreTrainedModel, batch: Batch, parameters: Sequence[Tensor], attached: AbstractContextManager[None]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    with attached:
        output = student(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels, use_cache=False
        )
        gradients = cast("tuple[Tensor | None, ...]", torch.autograd.grad(output.loss, parameters, allow_unused=True))
    found = tuple(
        torch.zeros_like(parameter) if gradient is None else gradient
        for gradient, parameter in zip(gradients, parameters, strict=True)
    )
    return output.logits.detach(), found


def _distance(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Largest absolute difference; infinite where one side is not finite and the other differs."""
    largest = 0.0
    for a, b in zip(one, other, strict=True):
        if not torch.equal(a, b):
            gap = float((a.double() - b.double()).abs().max())
            largest = max(largest, gap if math.isfinite(gap) else math.inf)
    return largest
