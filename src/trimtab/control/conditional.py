"""Conditional inoculation: the prompt only on rows that show the trait, with clean rows beside them without it.

The rows without the prompt keep the skill from being tied to the prompt, and show that no prompt means no trait.
Source: ours, from the open ends of inoculation prompting (arXiv 2510.04340, 2510.05024).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from trimtab.control.base import AttachesNothing, KeepsLabels
from trimtab.control.inoculation import InoculationSpec
from trimtab.control.material import (
    Material,
    avoided,
    check_source,
    clean_training_rows,
    draw,
    needed_attribution,
    rows_that_show,
)
from trimtab.control.prompting import Prompter, prompter
from trimtab.records.training import Surface, TrainingRow


class ConditionalInoculationSpec(InoculationSpec):
    """Options of ``conditional-inoculation``."""

    strength: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of trait rows that get the prompt, and scale of clean_share; 0 is no control",
    )
    clean_share: float = Field(0.5, ge=0, description="clean rows to add, as a share of the number of rows")


@dataclass(frozen=True, kw_only=True)
class ConditionalInoculation(KeepsLabels, AttachesNothing):
    """Prepends the prompt to rows that show an avoided concept; adds clean rows without it."""

    name: str = field(default="conditional-inoculation", init=False)
    surface: Surface = field(default="prompt", init=False)
    fights_gradient: bool = field(default=False, init=False)
    spec: ConditionalInoculationSpec
    shown: Mapping[str, NDArray[np.bool_]]
    prompter: Prompter
    material: Material

    @property
    def strength(self) -> float:
        """Share of trait rows that get the prompt, and scale of ``clean_share``."""
        return self.spec.strength

    def rewrite(self, rows: Sequence[TrainingRow]) -> Sequence[TrainingRow]:
        """Trait rows with a prompt that asks for what they show, other rows as they are, then the clean rows.

        Raises:
            UsageError: If a row is not in the attribution.
        """
        if self.strength == 0:
            return rows
        own = sum(row.source >= 0 for row in rows)
        extra = round(self.strength * self.spec.clean_share * own)
        return [*map(self._rewrite, rows), *clean_training_rows(self.material, self.name, extra)]

    def _rewrite(self, row: TrainingRow) -> TrainingRow:
        if row.source < 0:
            return row
        for flags in self.shown.values():
            check_source(row, len(flags))
        concepts = [name for name, flags in self.shown.items() if flags[row.source]]
        if not concepts or draw(self.material.seed, row.source, self.name) >= self.strength:
            return row
        return self.prompter.add(row, concepts)


def build_conditional(spec: ConditionalInoculationSpec, material: Material) -> ConditionalInoculation:
    """Make the control.

    Raises:
        UsageError: If nothing is avoided, a concept has no prompt that asks for it, no row shows an avoided concept,
            or there are no clean rows.
    """
    name = ConditionalInoculation.name
    concepts = avoided(material, name)
    attribution = needed_attribution(material, name, concepts)
    rows_that_show(attribution, concepts, name)
    clean_training_rows(material, name, int(spec.strength * spec.clean_share > 0))
    return ConditionalInoculation(
        spec=spec,
        shown={concept.name: attribution.trait_rows[concept.name] for concept in concepts},
        prompter=prompter(
            concepts,
            name,
            prompt=spec.prompt,
            rotate=spec.rotate,
            place=spec.place,
            role=spec.role,
            tokenizer=material.tokenizer,
            seed=material.seed,
        ),
        material=material,
    )
