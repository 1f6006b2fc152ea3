"""Training against a probe on the student itself: only if meant, marked, and never at the host's expense."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

import train_world
import trimtab
from trimtab.errors import StorageError, UsageError
from trimtab.model.base import LanguageModel
from trimtab.model.fingerprint import content_hash
from trimtab.model.host import Host
from trimtab.records.claims import Prompt
from trimtab.records.io import load
from trimtab.records.rewards import GrpoSettings, Scored
from trimtab.train.grpo import train_policy
from trimtab.train.manifest import Manifest
from trimtab.train.metrics import read_metrics
from trimtab.train.research import (
    CurrentStudent,
    OnStudent,
    ResearchSettings,
    StudentProbe,
    StudentProbeTrainer,
    train_on_student,
)

SETTINGS = GrpoSettings(
    method="full",
    max_steps=2,
    per_device_train_batch_size=4,
    num_generations=2,
    learning_rate=1e-2,
    warmup_steps=0,
    max_completion_length=4,
    beta=0.0,
    logging_steps=1,
    save_steps=2,
)
PROMPTS: list[Prompt] = [({"role": "user", "content": f"What is {k} + 3?"},) for k in range(4)]
MEANT = "i_know_this_fights_interpretability"


class Level:
    """Pays every answer the same, so that no advantage and no policy gradient is left; looks at the student."""

    name = "level"

    def __init__(self, student: CurrentStudent | None = None) -> None:
        self.student = student
        self.seen: list[LanguageModel] = []

    def __call__(
        self, prompts: Sequence[Prompt], answers: Sequence[str], *, ended: Sequence[bool], wanted: Sequence[float]
    ) -> tuple[Scored, ...]:
        if self.student is not None:
            self.seen.append(self.student())
        return tuple(Scored(answer=1.0) for _ in answers)

    def adapt(self) -> Mapping[str, float]:
        return {}

    def state(self) -> Mapping[str, float]:
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        pass


class Toy:
    """Reads the mean of the last hidden state of one fixed text for every answer."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, model: PreTrainedModel, prompts: Sequence[Prompt], answers: Sequence[str]) -> Tensor:
        assert len(prompts) == len(answers)
        self.calls.append(len(answers))
        hidden = model(input_ids=torch.tensor([[5, 6, 7]]), output_hidden_states=True).hidden_states[-1]
        return hidden.mean().repeat(len(answers))


@pytest.fixture(scope="module")
def host() -> Host:
    return train_world.host()


def research(on_student: OnStudent, weight: float = 0.5) -> ResearchSettings:
    return ResearchSettings(on_student=on_student, weight=weight, i_know_this_fights_interpretability=True)


def train(host: Host, folder: Path, settings: ResearchSettings, probe: StudentProbe | None) -> Level:
    student = CurrentStudent()
    reward = Level(student)
    train_on_student(
        host, PROMPTS, [1.0] * 4, reward, SETTINGS, settings, student=student, seed=0, folder=folder, probe=probe
    )
    return reward


def moved(host: Host, folder: Path) -> float:
    """How far the furthest weight of a trained student is from the host's."""
    trained = load_file(folder / "model.safetensors")
    assert set(trained) <= set(host.model.state_dict())
    return max(float((value - host.model.state_dict()[name]).abs().max()) for name, value in trained.items())


def test_gradients_flow_through_the_probe_only_where_they_are_meant_to(host: Host, tmp_path: Path) -> None:
    before = content_hash(host.model)
    probe = Toy()
    read = train(host, tmp_path / "read", research("read"), None)
    train(host, tmp_path / "gradient", research("gradient"), probe)
    train_policy(host, PROMPTS, [1.0] * 4, Level(), SETTINGS, seed=0, folder=tmp_path / "default")
    assert moved(host, tmp_path / "read") == 0
    assert moved(host, tmp_path / "default") == 0
    assert moved(host, tmp_path / "gradient") > 1e-3
    assert probe.calls == [4, 4]
    assert len(read.seen) == 2
    assert all(lm.model is not host.model for lm in read.seen)
    assert content_hash(host.model) == before
    assert not any(weight.requires_grad or weight.grad is not None for weight in host.model.parameters())
    terms = [line.terms["student_probe"] for line in read_metrics(tmp_path / "gradient" / "metrics.jsonl")]
    assert terms[1] > terms[0]
    assert all("student_probe" not in line.terms for line in read_metrics(tmp_path / "read" / "metrics.jsonl"))


def test_the_manifest_says_so_and_the_folder_is_no_other_runs(host: Host, tmp_path: Path) -> None:
    train(host, tmp_path, research("read"), None)
    manifest = load(Manifest, tmp_path / "manifest.json")
    material = manifest.identity["material"]
    assert material == {"research": {"on_student": "read", "weight": 0.5, MEANT: True}}
    with pytest.raises(StorageError, match=MEANT):
        train_policy(host, PROMPTS, [1.0] * 4, Level(), SETTINGS, seed=0, folder=tmp_path)


@pytest.mark.parametrize("on_student", ["read", "gradient"])
def test_it_has_to_be_meant(host: Host, tmp_path: Path, on_student: OnStudent) -> None:
    folder = tmp_path / "new"
    settings = ResearchSettings(on_student=on_student)
    with pytest.raises(UsageError, match=MEANT):
        train(host, folder, settings, Toy() if on_student == "gradient" else None)
    assert not folder.exists()
    with pytest.raises(UsageError, match=MEANT):
        StudentProbeTrainer(research=settings, student=CurrentStudent(), probe=None)


def test_a_probe_is_for_gradients_and_gradients_are_for_a_probe(host: Host, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without a probe"):
        train(host, tmp_path / "new", research("gradient"), None)
    with pytest.raises(UsageError, match="with a probe"):
        train(host, tmp_path / "new", research("read"), Toy())
    assert not (tmp_path / "new").exists()


def test_there_is_no_student_before_training() -> None:
    with pytest.raises(UsageError, match="before there is one"):
        CurrentStudent()()


def importers(*modules: str) -> set[str]:
    """Files of the package that import one of some modules."""
    package = Path(trimtab.__file__).parent
    found: set[str] = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            if set(names) & set(modules):
                found.add(path.relative_to(package).as_posix())
    return found


def test_nothing_in_the_package_reaches_it() -> None:
    assert importers("trimtab.train.research", "trimtab.reward.student") == set()
    assert "train/research.py" in importers("trimtab.train.grpo")
    told = [path for path in Path(trimtab.__file__).parent.rglob("*.py") if MEANT in path.read_text(encoding="utf-8")]
    assert [path.name for path in told] == ["research.py"]
