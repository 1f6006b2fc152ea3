"""Inoculation: ask, in training only, for the trait that is not wanted, so that learning it earns nothing.

Source: inoculation prompting (arXiv 2510.04340, 2510.05024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from trimtab.control.base import AttachesNothing, KeepsLabels
from trimtab.control.material import Material, avoided, draw
from trimtab.control.prompting import Place, Prompter, Role, prompter
from trimtab.records.config import Settings
from trimtab.records.training import Surface, TrainingRow

Text = Annotated[str, Field(min_length=1)]


class InoculationSpec(Settings):
    """Options of ``inoculation``."""

    strength: float = Field(1.0, ge=0, le=1, description="share of rows that get the prompt; 0 is no control")
    prompt: Text | Annotated[tuple[Text, ...], Field(min_length=1)] | None = Field(
        None, description="your own prompt, or several to rotate over; default: the bank's strongest for each concept"
    )
    rotate: bool = Field(False, description="rotate over all of the bank's prompts instead of using the strongest")
    place: Place = Field("before", description="before or after what a row's system turn already says")
    role: Role = Field("auto", description="turn that carries the prompt; auto: system where the template has one")


@dataclass(frozen=True, kw_only=True)
class Inoculation(KeepsLabels, AttachesNothing):
    """Prepends the prompt to a share of the rows."""

    name: str = field(default="inoculation", init=False)
    surface: Surface = field(default="prompt", init=False)
    fights_gradient: bool = field(default=False, init=False)
    spec: InoculationSpec
    concepts: tuple[str, ...]
    prompter: Prompter
    seed: int

    @property
    def strength(self) -> float:
        """Share of rows that get the prompt."""
        return self.spec.strength

    def rewrite(self, rows: Sequence[TrainingRow]) -> Sequence[TrainingRow]:
        """The user's rows with the prompt; rows that another control added stay as they are."""
        if self.strength == 0:
            return rows
        return [
            self.prompter.add(row, self.concepts)
            if row.source >= 0 and draw(self.seed, row.source, self.name) < self.strength
            else row
            for row in rows
        ]


def build_inoculation(spec: InoculationSpec, material: Material) -> Inoculation:
    """Make the control.

    Raises:
        UsageError: If nothing is avoided, or a concept has no prompt that asks for it.
    """
    concepts = avoided(material, Inoculation.name)
    return Inoculation(
        spec=spec,
        concepts=tuple(concept.name for concept in concepts),
        prompter=prompter(
            concepts,
            Inoculation.name,
            prompt=spec.prompt,
            rotate=spec.rotate,
            place=spec.place,
            role=spec.role,
            tokenizer=material.tokenizer,
            seed=material.seed,
        ),
        seed=material.seed,
    )
