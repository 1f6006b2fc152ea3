"""``reward.yaml``: a whole run of feature rewards, one field to one setting, unknown keys refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

import yaml
from pydantic import Field, ValidationError

from trimtab.errors import UsageError
from trimtab.records.claim_probe import Reading
from trimtab.records.config import Settings
from trimtab.records.harness import HarnessSettings
from trimtab.records.io import write_bytes
from trimtab.records.rewards import GrpoSettings, RewardSettings


class ClaimRunSettings(Settings):
    """A run that rewards a student for making fewer things up. ``trimtab reward run reward.yaml`` reads one."""

    model: str = Field(description="`lab`, a Hugging Face id, or a folder")
    revision: str | None = Field(default=None, description="git revision of a Hugging Face id; pin it")
    questions: str | None = Field(
        default=None, description="JSONL of questions (prompt, about, group, known); the lab brings its own"
    )
    documents: str | None = Field(
        default=None,
        description="folder or JSONL of reference documents that grade claims; the lab grades by its truth",
    )
    anchors: str | None = Field(
        default=None,
        description="JSONL of prompts whose answers earn nothing: only the KL term acts there, and holds skills",
    )
    practice: str | None = Field(
        default=None,
        description="JSONL of further questions to train on, like `questions`; nothing need be able to grade their "
        "answers, since the host alone pays. The lab asks about people whom nobody has heard of",
    )
    concept: str | None = Field(
        default=None,
        pattern=r"^(more|less) \S+$",
        description="instead of made-up claims: `less flattery`, `more formal`; whole answers are read (lab's traits)",
    )
    probe: str | None = Field(
        default=None, description="folder of a claim probe, or of a calibrated lens; default: one is fitted"
    )
    reading: Reading | None = Field(
        default=None,
        description="what the host reads claims by: probe, confidence, both, network; null: the best on Tune",
    )
    probe_questions: int = Field(default=900, gt=0, description="questions whose sampled answers the probe learns from")
    train_questions: int = Field(default=600, gt=0, description="questions of training")
    practice_questions: int = Field(default=300, ge=0, description="further questions of training, at most; 0: none")
    tune_questions: int = Field(default=150, gt=0, description="questions of calibration, and of each validation")
    held_out_questions: int = Field(default=240, gt=0, description="questions of the final table")
    reward: RewardSettings = Field(default_factory=RewardSettings, description="what answers earn")
    train: GrpoSettings = Field(default_factory=GrpoSettings, description="how students are trained")
    harness: HarnessSettings = Field(default_factory=HarnessSettings, description="how doubtful claims are dealt with")
    best_of: int = Field(default=8, ge=1, le=64, description="answers of which the best by probe is kept, in `after`")
    best_of_temperature: float = Field(default=1.0, gt=0, description="sampling temperature of those answers")
    temperature: float = Field(default=0.0, ge=0, description="of single answers in the table, and under the harness")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(
        default=(0, 1, 2), min_length=1, description="one student per seed"
    )
    jobs: int = Field(default=1, gt=0, description="students trained side by side (CPU: one thread each)")


def read_claim_run(path: Path) -> ClaimRunSettings:
    """Read ``reward.yaml``.

    Raises:
        UsageError: If the file is missing, is not YAML, or has a key or value that is not allowed.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(
            f"cannot read {path}: {error}",
            allowed="a YAML file of reward settings",
            todo="see docs/reference/reward-yaml.md",
        ) from error
    try:
        return ClaimRunSettings.model_validate(data)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'top level'}: {e['msg']}" for e in error.errors())
        raise UsageError(
            f"{path}: {faults}",
            allowed="; ".join(_keys(sorted({str(e["loc"][0]) if len(e["loc"]) > 1 else "" for e in error.errors()}))),
            todo="correct the named keys; docs/reference/reward-yaml.md lists each with its meaning",
        ) from error


_PARTS: Final[Mapping[str, type[Settings]]] = MappingProxyType(
    {"reward": RewardSettings, "train": GrpoSettings, "harness": HarnessSettings}
)


def _keys(places: Sequence[str]) -> Iterator[str]:
    """The keys that are allowed at the places of faults: the top level's, or those of a part."""
    for part in dict.fromkeys(place if place in _PARTS else "" for place in places):
        fields = _PARTS[part].model_fields if part else ClaimRunSettings.model_fields
        yield f"keys{f' of {part}' if part else ''}: {', '.join(fields)}"


def write_claim_run(settings: ClaimRunSettings, path: Path) -> None:
    """Write ``reward.yaml``, atomically."""
    write_bytes(path, yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False).encode())
