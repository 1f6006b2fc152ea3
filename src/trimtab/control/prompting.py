"""Putting a training-only prompt into a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from transformers import PreTrainedTokenizerBase

from trimtab.data.prompts import accepts_system, with_prompt
from trimtab.errors import UsageError
from trimtab.lens.bank import Concept
from trimtab.records.training import TrainingRow

Place: TypeAlias = Literal["before", "after"]
Role: TypeAlias = Literal["auto", "system", "user"]


@dataclass(frozen=True, kw_only=True)
class Prompter:
    """Adds a prompt to a row.

    Attributes:
        elicit: System prompts that ask for each concept, strongest first.
        override: The user's own prompts, used instead; empty for none.
        rotate: Go through all prompts, row by row, instead of using the first.
        place: Before or after what a system turn already says.
        role: The turn that the prompt goes into, ``system`` or ``user``.
        seed: Shifts the rotation.
    """

    elicit: dict[str, tuple[str, ...]]
    override: tuple[str, ...]
    rotate: bool
    place: Place
    role: Literal["system", "user"]
    seed: int

    def text(self, source: int, concepts: Sequence[str]) -> str:
        """The prompt for one row that asks for some concepts."""
        turn = max(source, 0) + self.seed if self.rotate else 0
        if self.override:
            return self.override[turn % len(self.override)]
        return " ".join(self.elicit[name][turn % len(self.elicit[name])] for name in concepts)

    def add(self, row: TrainingRow, concepts: Sequence[str]) -> TrainingRow:
        """The row with the prompt in its system turn, or in its first user turn; assistant turns are untouched."""
        text, after = self.text(row.source, concepts), self.role == "system" and self.place == "after"
        return replace(row, messages=tuple(with_prompt(row.messages, text, self.role, after=after)))


def prompter(
    concepts: Sequence[Concept],
    control: str,
    *,
    prompt: str | tuple[str, ...] | None,
    rotate: bool,
    place: Place,
    role: Role,
    tokenizer: PreTrainedTokenizerBase | None,
    seed: int,
) -> Prompter:
    """Make a prompter from a control's options.

    Raises:
        UsageError: If a concept has no eliciting prompt and the user gave none.
    """
    override = (prompt,) if isinstance(prompt, str) else (prompt or ())
    silent = [concept.name for concept in concepts if not concept.card.elicit]
    if silent and not override:
        raise UsageError(
            f"control {control!r} for {', '.join(silent)}, which no prompt of the bank asks for",
            allowed="concepts with eliciting prompts in the bank, or a prompt of your own",
            todo="set the option `prompt` to an instruction that asks for it, or use another control",
        )
    if role == "auto":
        role = "system" if tokenizer is None or accepts_system(tokenizer) else "user"
    return Prompter(
        elicit={concept.name: concept.card.elicit for concept in concepts},
        override=override,
        rotate=rotate or isinstance(prompt, tuple),
        place=place,
        role=role,
        seed=seed,
    )
