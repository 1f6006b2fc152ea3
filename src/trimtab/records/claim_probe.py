"""What reads claims on the frozen host, and how well: the card of a claim probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from trimtab.records.lens import Calibration, Evidence

Reading: TypeAlias = Literal["probe", "confidence", "both", "network"]
"""``probe``: a logistic lens at the end of a claim; ``confidence``: how likely the host finds its tokens; ``both``: a
logistic regression on the two; ``network``: a small network on the activation and the likelihood of every token, of
whose scores the most doubtful counts."""


@dataclass(frozen=True, kw_only=True)
class ClaimProbeCard:
    """What is known of a claim probe apart from its lens.

    Attributes:
        concept: What it reads of a claim, such as ``right``.
        reading: What the score is made of.
        model: Name of the host.
        model_hash: Content hash of the host; a claim probe is refused on any other.
        features: Names of what is weighed: ``lens``, ``network`` and those of ``reward.passes.CONFIDENCE``.
        weights: Weight of each feature, in log-odds per unit.
        bias: Log-odds where every feature is zero.
        calibration: Scores to probabilities, fitted on Tune.
        evidence: Each of the readings on held-out claims, the chosen one's first.
        provenance: Where it came from.
    """

    concept: str
    reading: Reading
    model: str
    model_hash: str
    features: tuple[str, ...]
    weights: tuple[float, ...]
    bias: float
    calibration: Calibration
    evidence: Mapping[str, Evidence] = field(default_factory=dict[str, Evidence])
    provenance: Mapping[str, str] = field(default_factory=dict[str, str])
