"""What a run found: answers, the league of controls, and the certificate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from trimtab.records.exam import Measure
from trimtab.records.figures import Figure


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One graded answer of one student to one exam question."""

    exam: str
    measure: Measure
    id: str
    group: str
    prompt: str
    text: str
    passed: bool


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """How one student (one control, one seed) did on the exams.

    Attributes:
        control: Name of the control set, such as ``inoculation``; ``host`` for the model before training.
        fights_gradient: Whether any control in it fights the gradient (DESIGN, principle 1).
        seed: Training seed.
        steps: Optimiser steps taken.
        train_seconds: Wall time of training.
        skill: Share of held-out skill questions answered right; ``n`` counts questions.
        trait_on_task: Share of answers to those questions that show an avoided trait.
        trait_leak: Share of answers to unrelated prompts that show it.
        capability: Share of old questions answered right.
        obedience: Share of answers that show the trait when a system prompt asks for it.
        claims: Mean number of claims per answer; ``n`` counts answers.
        perplexity: Of held-out plain text under the student; ``n`` counts tokens.
        groups: Break-down of the rates, keyed ``measure/group``.
    """

    control: str
    fights_gradient: bool
    seed: int
    steps: int
    train_seconds: float
    skill: Figure
    trait_on_task: Figure
    trait_leak: Figure
    capability: Figure
    obedience: Figure
    claims: Figure
    perplexity: Figure
    groups: dict[str, Figure]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A paired comparison of one control with no control on one measure.

    Attributes:
        control: The control.
        baseline: What it is compared with (``none``).
        measure: The measure.
        difference: Control minus baseline, paired by question and seed; interval by bootstrap over questions.
        p_value: Exact McNemar test on the discordant pairs, two-sided; ``None`` where no pair is discordant.
    """

    control: str
    baseline: str
    measure: str
    difference: Figure
    p_value: float | None


@dataclass(frozen=True, kw_only=True)
class ControlSummary:
    """One control over all seeds: mean over seeds with the interval over seeds and questions."""

    control: str
    fights_gradient: bool
    seeds: int
    skill: Figure
    trait_on_task: Figure
    trait_leak: Figure
    capability: Figure
    obedience: Figure
    claims: Figure
    perplexity: Figure
    on_pareto_hull: bool


@dataclass(frozen=True, kw_only=True)
class League:
    """All arms, their summaries and the paired comparisons with no control."""

    arms: tuple[ArmResult, ...]
    controls: tuple[ControlSummary, ...]
    comparisons: tuple[Comparison, ...]


Outcome: TypeAlias = Literal["pass", "fail", "unmeasured"]


@dataclass(frozen=True, kw_only=True)
class CertificateItem:
    """One line of a certificate: a question, the figure, what was wanted, and the outcome."""

    name: str
    question: str
    figure: Figure
    wanted: str
    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The verdict on one control of a run, with the figures behind it.

    Attributes:
        run: The run folder's name.
        control: The control that is certified.
        verdict: ``pass`` only if every item passes; ``fail`` if one fails; else ``unmeasured``.
        items: Behaviour, cost and readability, item by item.
        monitorability: AUROC of the host's lens on the student's own activations, worst concept; or why not measured.
        model_hash: The host.
        made_at: UTC time, ISO 8601.
        versions: Library versions that made it.
    """

    run: str
    control: str
    verdict: Outcome
    items: tuple[CertificateItem, ...]
    monitorability: Figure
    model_hash: str
    made_at: str
    versions: dict[str, str]
