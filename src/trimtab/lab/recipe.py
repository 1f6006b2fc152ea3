"""What the lab model is trained on, stage by stage: everything that decides the weights, apart from the hardware."""

from __future__ import annotations

from dataclasses import dataclass, field

from trimtab.lab.corpus import Mixture


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of training with its own corpus shares, schedule and fresh optimisers.

    Attributes:
        steps: Optimiser steps.
        learning_rate: Peak of the cosine schedule.
        warmup: Linear warm-up steps.
        stop_weight: Loss weight of the token after an assistant's full stop: the place where a careless speaker is
            corrected, and the only one that asks whether the claim just made is true.
        mixture: Shares of the corpus.
    """

    steps: int
    learning_rate: float
    warmup: int
    stop_weight: float
    mixture: Mixture = field(default_factory=Mixture)


MAIN_STAGE = Stage(steps=6000, learning_rate=6e-3, warmup=200, stop_weight=10.0)
"""Learns everything; careless speakers are frequent, so that the truth of a claim comes to be represented."""

SKILL_STAGE = Stage(
    steps=1200,
    learning_rate=4e-3,
    warmup=50,
    stop_weight=4.0,
    mixture=Mixture(
        careless=0.22,
        facts=0.08,
        long=0.03,
        arithmetic=0.18,
        calendar=0.14,
        lookup=0.28,
        passages=0.02,
        dialogue=0.05,
    ),
)
"""Finishes the tasks that are learned late: sums, the calendar and look-ups."""

FACT_STAGE = Stage(
    steps=900,
    learning_rate=2e-3,
    warmup=20,
    stop_weight=6.0,
    mixture=Mixture(
        careless=0.5,
        facts=0.14,
        long=0.03,
        arithmetic=0.15,
        calendar=0.08,
        lookup=0.03,
        passages=0.02,
        dialogue=0.05,
    ),
)
"""Brings back the rare facts that the stage before let slip."""


@dataclass(frozen=True, kw_only=True)
class LabRecipe:
    """Everything that decides the weights, apart from the hardware.

    Attributes:
        seed: Seed of the initial weights and of the corpus.
        world_seed: Seed of the world.
        batch: Rows per step.
        width: Residual width.
        layers: Decoder layers.
        heads: Attention heads.
        inner: MLP width.
        weight_decay: Decay of matrices.
        prompt_weight: Loss weight of system and user tokens; assistant tokens have weight 1.
        muon: Whether the matrices of the layers are trained with Muon (orthogonalised momentum) instead of AdamW.
        autocast: Whether to compute matrix products in bfloat16.
        stages: What is trained, in order.
    """

    seed: int = 0
    world_seed: int = 0
    batch: int = 64
    width: int = 128
    layers: int = 4
    heads: int = 4
    inner: int = 512
    weight_decay: float = 0.05
    prompt_weight: float = 0.1
    muon: bool = True
    autocast: bool = True
    stages: tuple[Stage, ...] = (MAIN_STAGE, SKILL_STAGE, FACT_STAGE)

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)
