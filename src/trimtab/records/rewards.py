"""What a student earns for an answer, and how rewards and their training are set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from trimtab.records.config import Settings, TrainSettings


@dataclass(frozen=True, kw_only=True)
class Credit:
    """What a part of an answer earned.

    Attributes:
        start: Its first character, 0-based.
        end: Place after its last one.
        value: The reward.
        said: What its words would have earned by themselves, however they are meant; ``None``: the value.
        chosen: First and past-the-last character of where it was chosen how it is meant: a hedge, or what stands where
            one could have come; past the end of the answer: its end. ``None``: nothing was chosen.
        won: What that choice won or lost against the other.
    """

    start: int
    end: int
    value: float
    said: float | None = None
    chosen: tuple[int, int] | None = None
    won: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The reward of one answer.

    Attributes:
        answer: What the answer earned as a whole.
        credits: What each claim earned, in order; they do not overlap.
        terms: Every part of it by name, for curves: counts, shares and sums.
    """

    answer: float
    credits: tuple[Credit, ...] = ()
    terms: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def total(self) -> float:
        """One number for trainers that take one: the answer's part and the mean of the claims'."""
        if not self.credits:
            return self.answer
        return self.answer + sum(credit.value for credit in self.credits) / len(self.credits)


def mean_terms(scored: Sequence[Scored]) -> dict[str, float]:
    """Mean of every term over the answers that have it."""
    names = dict.fromkeys(name for one in scored for name in one.terms)
    found = {name: [one.terms[name] for one in scored if name in one.terms] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}


class RewardSettings(Settings):
    """What a feature reward pays.

    A claim that stands as a fact earns ``p - wrong_cost * (1 - p)``, ``p`` being the probability that it is right; one
    that is said with doubt earns the hedge price, which starts at ``hedge_price`` and follows ``hedge_share``: it moves
    towards what the claim earns as a fact below which that share of the claims lies. At a price of 0, doubt pays below
    ``p = wrong_cost / (1 + wrong_cost)`` (Chow 1970) and never for what is known.
    """

    want: Literal["more", "less"] = Field(default="more", description="more or less of what the probe reads")
    unit: Literal["claim", "answer"] = Field(default="claim", description="what is read: every claim, or whole answers")
    wrong_cost: float = Field(default=1.0, ge=0, description="cost of a wrong claim, in right ones")
    hedge_price: float = Field(
        default=0.0, ge=-1, le=1, description="what a claim earns that is said with doubt, at first"
    )
    hedge_share: float | None = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="share of the claims, the least sure ones, that it is to pay to hedge: the price follows what they "
        "would earn as facts; null: fixed price",
    )
    hedge_step: float = Field(
        default=0.1, ge=0, le=1, description="how far the price moves each time, as a part of what it is off by"
    )
    claims_weight: float = Field(default=0.5, ge=0, description="cost of losing all claims that the host would make")
    illegible: float = Field(default=-0.2, le=0, description="reward of an answer that does not end, or says nothing")


class GrpoSettings(TrainSettings):
    """GRPO as TRL implements it; names are those of ``GRPOConfig`` where one exists."""

    max_steps: int = Field(default=100, gt=0, description="optimiser steps")
    per_device_train_batch_size: int = Field(default=96, gt=0, description="answers in a step: prompts x generations")
    num_generations: int = Field(default=8, gt=1, description="answers to each prompt")
    learning_rate: float = Field(default=1e-5, gt=0, description="peak learning rate")
    lr_scheduler_type: Literal["linear", "constant_with_warmup", "cosine"] = Field(
        default="linear", description="as in TrainingArguments"
    )
    max_completion_length: int = Field(default=256, gt=0, description="most tokens of an answer")
    temperature: float = Field(default=1.0, gt=0, description="sampling temperature of the answers")
    beta: float = Field(default=0.02, ge=0, description="weight of the KL term to the host; 0: none")
    kl_target: float | None = Field(
        default=None, gt=0, description="KL per token above which beta is raised; null: beta stays"
    )
    loss_type: Literal["cispo", "grpo", "dapo", "dr_grpo", "bnpo"] = Field(default="cispo", description="as in TRL")
    epsilon_high: float = Field(default=5.0, gt=0, description="upper clip of importance weights, as in TRL")
    importance_sampling_level: Literal["token", "sequence"] = Field(default="token", description="as in TRL")
    explore_words: str | None = Field(
        default=None,
        description="a hedge, such as `I am not sure about that.`. In some sampled answers it is put after the plain "
        "claims that it pays to hedge, and hedges that do not pay are taken away: what a student never says it cannot "
        "be rewarded for",
    )
    explore_share: float = Field(default=0.5, ge=0, le=1, description="share of each group's answers explored so")
    content_weight: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="weight of what claims earn on their own words; 0: only how they are meant is learned",
    )
    steps_per_generation: int = Field(default=1, gt=0, description="as in TRL")
    dense: bool = Field(default=True, description="each claim's tokens earn that claim's reward; false: one sum")
    freeze_layers: int = Field(
        default=0,
        ge=0,
        description="first layers that stay as they are, the embeddings and the output head with them; with `full` "
        "only. Less of what is not asked about changes, and steps get cheaper",
    )
    validate_steps: int = Field(default=25, gt=0, description="steps between validations against ground truth")
    gradient_checkpointing: bool = Field(default=False, description="less memory for more time, as in TRL")
    use_vllm: bool = Field(default=False, description="generate with vLLM, where it is installed")
