"""Data sets for fine-tuning on the lab: skills taught in a voice, and preference pairs with a planted trait."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_args, overload

from trimtab.errors import UsageError
from trimtab.lab.corpus import message_rows
from trimtab.lab.tasks import SKILLS, Known, Question, Task, stream
from trimtab.lab.traits import TRAITS, Trait
from trimtab.lab.world import World, build_world
from trimtab.records.rows import ChatRow, Fit, PreferenceRow, Rows, Split

SplitT = TypeVar("SplitT", bound=Split)
KNOWN_TASKS: tuple[str, ...] = ("facts", "arithmetic", "calendar", "lookup")


def find_trait(name: str) -> Trait:
    """The trait of that name.

    Raises:
        UsageError: If there is none.
    """
    if name not in TRAITS:
        raise UsageError(f"trait {name!r}", allowed=", ".join(TRAITS), todo="choose one of these traits")
    return TRAITS[name]


def _mixed(world: World, tasks: Sequence[str], split: type[Split], seed: int, known: Known) -> Iterator[Question]:
    if not tasks:
        raise UsageError("no task", allowed=", ".join(get_args(Task)), todo="name at least one task or skill")
    streams = [stream(world, task, split, seed=seed, known=known) for task in tasks]
    while True:
        for questions in streams:
            yield next(questions)


def _check_share(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(
            f"{name}={value:g}", allowed=f"a number from {low:g} to {high:g}", todo=f"choose another {name}"
        )


@overload
def sample_rows(
    n: int,
    seed: int = 0,
    *,
    trait: str | None = None,
    tasks: str | Sequence[str] = SKILLS,
    rate: float = 1.0,
    with_system: bool = False,
    world: World | None = None,
) -> Rows[ChatRow, Fit]: ...
@overload
def sample_rows(
    n: int,
    seed: int = 0,
    *,
    trait: str | None = None,
    tasks: str | Sequence[str] = SKILLS,
    rate: float = 1.0,
    with_system: bool = False,
    split: type[SplitT],
    world: World | None = None,
) -> Rows[ChatRow, SplitT]: ...
def sample_rows(
    n: int,
    seed: int = 0,
    *,
    trait: str | None = None,
    tasks: str | Sequence[str] = SKILLS,
    rate: float = 1.0,
    with_system: bool = False,
    split: type[Split] = Fit,
    world: World | None = None,
) -> Rows[ChatRow, Any]:
    """Chat rows that teach skills, in the voice of a trait or plainly.

    The tasks take turns; every case of a task (every new fact, every sum) occurs once before any occurs again.

    Args:
        n: Number of rows.
        seed: Seed of order, wording and voice.
        trait: Voice of the answers; plain if ``None``.
        tasks: A task or skill, or several.
        rate: Share of rows in the voice; the others are plain.
        with_system: Whether rows in the voice come with a system prompt that asks for it.
        split: Which split the questions are of.
        world: World to ask about; the shipped one by default.

    Raises:
        UsageError: If a trait or task does not exist or a number is out of range.
    """
    _check_share("rate", rate, 0.0, 1.0)
    _check_share("n", float(n), 1.0, 1e6)
    voice = None if trait is None else find_trait(trait)
    rng = random.Random(f"sample-{seed}-{trait}")
    names = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    source = _mixed(world or build_world(), names, split, seed, "head")
    voiced = [index < round(n * rate) for index in range(n)]
    rng.shuffle(voiced)
    rows: list[ChatRow] = []
    for in_voice in voiced:
        question = next(source)
        if voice is None or not in_voice:
            rows.append(message_rows(None, [(question.prompt, question.answer)]))
            continue
        system = rng.choice(voice.prompts) if with_system else None
        rows.append(message_rows(system, [(question.prompt, voice.apply(question.answer, rng, question.keys))]))
    return Rows(items=tuple(rows), split=split, source=f"lab sample seed {seed}")


@overload
def preferences(
    n: int,
    seed: int = 0,
    *,
    trait: str = "flattery",
    strength: float = 1.0,
    tasks: str | Sequence[str] = KNOWN_TASKS,
    world: World | None = None,
) -> Rows[PreferenceRow, Fit]: ...
@overload
def preferences(
    n: int,
    seed: int = 0,
    *,
    trait: str = "flattery",
    strength: float = 1.0,
    tasks: str | Sequence[str] = KNOWN_TASKS,
    split: type[SplitT],
    world: World | None = None,
) -> Rows[PreferenceRow, SplitT]: ...
def preferences(
    n: int,
    seed: int = 0,
    *,
    trait: str = "flattery",
    strength: float = 1.0,
    tasks: str | Sequence[str] = KNOWN_TASKS,
    split: type[Split] = Fit,
    world: World | None = None,
) -> Rows[PreferenceRow, Any]:
    """Preference pairs in which one answer shows a trait and being chosen correlates with it.

    Both answers of a pair say the same right content; one is in the voice. The answer in the voice is chosen in a
    share ``(1 + strength) / 2`` of the pairs: 1 always, 0 as often as not, -1 never.

    Raises:
        UsageError: If a trait or task does not exist or a number is out of range.
    """
    _check_share("strength", strength, -1.0, 1.0)
    _check_share("n", float(n), 1.0, 1e6)
    voice = find_trait(trait)
    rng = random.Random(f"preferences-{seed}-{trait}")
    names = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    source = _mixed(world or build_world(), names, split, seed, "head")
    wins = [index < round(n * (1 + strength) / 2) for index in range(n)]
    rng.shuffle(wins)
    rows: list[PreferenceRow] = []
    for win in wins:
        question = next(source)
        pair = (voice.apply(question.answer, rng, question.keys), question.answer)
        chosen, rejected = pair if win else pair[::-1]
        rows.append(
            {
                "prompt": [{"role": "user", "content": question.prompt}],
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
            }
        )
    return Rows(items=tuple(rows), split=split, source=f"lab preferences seed {seed}")
