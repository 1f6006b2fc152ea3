"""The spec, the rulings made from it, and the append-only ledger that keeps them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import TypeAdapter

from trimtab.errors import StorageError
from trimtab.records.io import append_line, from_json

Verdict: TypeAlias = Literal["learn", "avoid", "ignore", "protect", "needs-human"]
RuledBy: TypeAlias = Literal["rule", "similarity", "protected", "default", "human"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """An explicit rule of a spec: it beats any reading of the prose."""

    concept: str
    verdict: Literal["learn", "avoid", "ignore"]
    reason: str = "explicit rule"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Intent in plain words plus optional explicit rules.

    Attributes:
        intent: The prose.
        rules: Explicit rules.
        protected: Concepts that monitoring keeps for itself and that are not trained on.
        allow_protected: The override: protected concepts that this spec asks to train on all the same.
        max_unexplained_share: Refuse to train when the forecast explains less than this leaves; ``None``: no limit.
        source: Where the spec came from.
    """

    intent: str
    rules: tuple[Rule, ...] = ()
    protected: tuple[str, ...] = ("deception", "evaluation awareness", "sandbagging")
    allow_protected: tuple[str, ...] = ()
    max_unexplained_share: float | None = None
    source: str = "<spec>"


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """What is wanted of one concept, why, and who said so.

    Attributes:
        concept: Name in the forecast.
        verdict: ``learn``, ``avoid``, ``ignore``, ``protect``, or ``needs-human`` (too close to call).
        reason: One sentence.
        by: What made the ruling.
        clause: The spec clause behind it, if any.
        margin: How far the best reading beat the second best (cosine difference); ``None`` where no text was compared.
        made_at: UTC time, ISO 8601; empty until it is written to a ledger.
    """

    concept: str
    verdict: Verdict
    reason: str
    by: RuledBy
    clause: str | None = None
    margin: float | None = None
    made_at: str = ""


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """All rulings in the order they were made; the last one on a concept holds."""

    rulings: tuple[Ruling, ...]

    def current(self) -> dict[str, Ruling]:
        """The ruling that holds for each concept."""
        return {ruling.concept: ruling for ruling in self.rulings}

    def with_verdict(self, verdict: Verdict) -> tuple[Ruling, ...]:
        """Rulings now in force with this verdict, in ledger order."""
        return tuple(ruling for ruling in self.current().values() if ruling.verdict == verdict)


def append_rulings(path: Path, rulings: Iterable[Ruling]) -> None:
    """Append rulings to a JSONL ledger; nothing in it is ever rewritten.

    Raises:
        StorageError: If the file cannot be written.
    """
    adapter = TypeAdapter(Ruling)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for ruling in rulings:
        append_line(path, adapter.dump_json(ruling if ruling.made_at else replace(ruling, made_at=now)))


def read_ledger(path: Path) -> Ledger:
    """Read a JSONL ledger.

    Raises:
        StorageError: If it is missing or a line is not a ruling.
    """
    try:
        lines = path.read_bytes().splitlines()  # of bytes: in text, a reason may hold more line separators than these
    except OSError as error:
        raise StorageError(
            f"cannot read {path}: {error.strerror}",
            allowed="a ledger.jsonl written by trimtab",
            todo="run the step that makes it (trimtab plan)",
        ) from error
    return Ledger(
        rulings=tuple(
            from_json(Ruling, line, source=f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()
        )
    )
