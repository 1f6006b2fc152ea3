"""A tiny world for tests of training under a reward: a random host, a few questions, a reward that counts letters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from train_world import host, kill
from trimtab.model.base import LanguageModel
from trimtab.model.generate import generate
from trimtab.records.claims import Prompt
from trimtab.records.rewards import Credit, GrpoSettings, Scored
from trimtab.records.rows import Message
from trimtab.train.grpo import PolicyResult, train_policy
from trimtab.train.trainer import TrainProgress

STEPS = 7
SETTINGS = GrpoSettings(
    method="full",
    max_steps=STEPS,
    per_device_train_batch_size=8,
    num_generations=4,
    learning_rate=1e-2,
    warmup_steps=0,
    max_completion_length=6,
    lora_r=2,
    lora_alpha=4,
    save_steps=2,
    logging_steps=1,
    validate_steps=3,
)
PROMPTS: tuple[Prompt, ...] = tuple((Message(role="user", content=f"What is {k} + 3?"),) for k in range(3))
WANTED = (1.0, 2.0, 3.0)
Call = tuple[list[Prompt], list[str], list[bool], list[float]]


@dataclass(kw_only=True)
class Letters:
    """Pays for ASCII letters and digits, each half of an answer for its own; its price moves with every batch."""

    name: str = "letters"
    price: float = 0.0
    fails_at: int | None = None
    error: Exception = field(default_factory=lambda: RuntimeError("no answer"))
    calls: list[Call] = field(default_factory=list)

    def __call__(
        self, prompts: Sequence[Prompt], answers: Sequence[str], *, ended: Sequence[bool], wanted: Sequence[float]
    ) -> tuple[Scored, ...]:
        self.calls.append((list(prompts), list(answers), list(ended), list(wanted)))
        if len(self.calls) == self.fails_at:
            raise self.error
        return tuple(self.score(answer) for answer in answers)

    def score(self, answer: str) -> Scored:
        middle = len(answer) // 2
        spans = [(0, middle), (middle, len(answer))]
        credits = [Credit(start=a, end=b, value=share(answer[a:b])) for a, b in spans if a < b]
        return Scored(answer=self.price, credits=tuple(credits), terms={"share": share(answer)})

    def adapt(self) -> Mapping[str, float]:
        self.price += 0.25
        return {"price": self.price}

    def state(self) -> Mapping[str, float]:
        return {"price": self.price}

    def restore(self, state: Mapping[str, float]) -> None:
        self.price = state["price"]


def share(text: str) -> float:
    """Share of letters and digits."""
    return sum(char.isascii() and char.isalnum() for char in text) / max(len(text), 1)


def middles(_prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[tuple[int, int]]]:
    """Explores in the middle of every answer, and at its end."""
    return [[(place, place) for place in (len(answer) // 2, len(answer))] for answer in answers]


def judge(student: LanguageModel) -> tuple[float, dict[str, float]]:
    answers = generate(student, [list(prompt) for prompt in PROMPTS], max_new_tokens=6)
    score = sum(map(share, answers)) / len(answers)
    return score, {"share": score}


def train(folder: Path, **changed: Any) -> PolicyResult:  # noqa: ANN401
    """``train_policy`` on the tiny world; settings, ``reward``, ``prompts`` and so on may be changed."""
    given = changed.pop("host", None) or host(changed.pop("architecture", "llama"))
    prompts, wanted = changed.pop("prompts", PROMPTS), changed.pop("wanted", WANTED)
    reward = changed.pop("reward", None) or Letters()
    arguments = {
        name: changed.pop(name) for name in ("progress", "identity", "validate", "make", "explore") if name in changed
    }
    seed = changed.pop("seed", 0)
    settings = SETTINGS.model_copy(update=changed)
    return train_policy(given, prompts, wanted, reward, settings, seed=seed, folder=folder, **arguments)


def stop_at(step: int, how: Callable[[], None]) -> Callable[[TrainProgress], None]:
    def progress(now: TrainProgress) -> None:
        if now.step == step:
            how()

    return progress


def train_and_die(folder: Path, step: int) -> None:
    train(folder, validate=judge, kl_target=0.1, progress=stop_at(step, kill))
