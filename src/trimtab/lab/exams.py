"""Exams on the lab: the planted truth grades every answer exactly, no judge needed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from trimtab.errors import UsageError
from trimtab.lab.tasks import NEW_LOW, Question, grade, questions
from trimtab.lab.traits import TRAITS
from trimtab.lab.world import World
from trimtab.records.exam import Exam, ExamRow, Measure
from trimtab.records.rows import ChatRow, HeldOut, Message, Rows

KNOWN_TASKS: tuple[str, ...] = ("facts", "arithmetic", "calendar", "passages")


def skills_in(world: World, rows: Sequence[ChatRow]) -> tuple[str, ...]:
    """Which of the lab's reserved skills a dataset teaches, by its questions.

    A skill counts when at least one row in twenty asks for it: a question that names a new person asks for
    ``new_facts``, one that adds numbers beyond the range of the corpus for ``new_sums``.
    """
    names = {person.name for person in world.new}
    counts = {"new_sums": 0, "new_facts": 0}
    for row in rows:
        asked = " ".join(message["content"].lower() for message in row["messages"] if message["role"] == "user")
        operands = [int(number) for number in re.findall(r"\d{1,6}", asked)]
        if len(operands) >= 2 and min(operands) >= NEW_LOW:
            counts["new_sums"] += 1
        elif any(name in asked for name in names):
            counts["new_facts"] += 1
    return tuple(skill for skill, count in counts.items() if count * 20 >= max(len(rows), 1))


def _rows(asked: Sequence[tuple[str, Question]], name: str) -> Rows[ExamRow, HeldOut]:
    items: list[ExamRow] = []
    for i, (system, question) in enumerate(asked):
        turns: list[Message] = [{"role": "system", "content": system}] if system else []
        items.append(
            ExamRow(
                id=f"{name}-{i:03d}",
                prompt=(*turns, {"role": "user", "content": question.prompt}),
                reference=question.answer,
                group=question.task,
            )
        )
    return Rows(items=tuple(items), split=HeldOut, source=f"lab exam {name}")


def _right(asked: Sequence[tuple[str, Question]], name: str) -> Callable[[ExamRow, str], bool]:
    by_id = {f"{name}-{i:03d}": question for i, (_, question) in enumerate(asked)}

    def right(row: ExamRow, text: str) -> bool:
        return grade(by_id[row.id], text)

    return right


def shows(traits: Sequence[str]) -> Callable[[ExamRow, str], bool]:
    """Grader: does the answer show any of these traits?

    Raises:
        UsageError: If a trait is not one of the lab's.
    """
    unknown = [name for name in traits if name not in TRAITS]
    if unknown:
        raise UsageError(f"traits {unknown}", allowed=", ".join(TRAITS), todo="name traits of the lab")

    def shown(_row: ExamRow, text: str) -> bool:
        return any(TRAITS[name].detect(text) for name in traits)

    return shown


def lab_exams(
    world: World, *, skills: Sequence[str], traits: Sequence[str], n: int = 200, seed: int = 0
) -> tuple[Exam, ...]:
    """Held-out exams for a run on the lab.

    Args:
        world: The lab's world.
        skills: Reserved skills that the data teaches; none: no skill exam.
        traits: Avoided traits; none: no trait exams.
        n: Questions per exam, shared evenly among its tasks.
        seed: Seed of the choice of questions.

    Returns:
        Skill and the trait on the same questions; capability and leak on the known tasks; obedience on the known
        tasks with a system prompt that asks for the trait in words that the corpus used.
    """
    exams: list[Exam] = []

    def add(
        measure: Measure, name: str, asked: Sequence[tuple[str, Question]], graded: Callable[[ExamRow, str], bool]
    ) -> None:
        exams.append(Exam(measure=measure, name=name, rows=_rows(asked, name), grade=graded, max_new_tokens=40))

    if skills:
        taught = _even(world, skills, n, seed)
        add("skill", "skill", taught, _right(taught, "skill"))
        if traits:
            add("trait_on_task", "trait_on_task", taught, shows(traits))
    known = _even(world, KNOWN_TASKS, n, seed)
    add("capability", "capability", known, _right(known, "capability"))
    if traits:
        add("trait_leak", "trait_leak", known, shows(traits))
        rng = random.Random(f"obedience-{seed}")
        for trait in traits:
            asked = [(rng.choice(TRAITS[trait].prompts), question) for _, question in known[: max(20, n // 4)]]
            add("obedience", f"obedience-{trait}", asked, shows([trait]))
    return tuple(exams)


def _even(world: World, tasks: Sequence[str], n: int, seed: int) -> list[tuple[str, Question]]:
    share = max(1, n // len(tasks))
    by_task = [questions(world, task, HeldOut, share, seed=seed, known="head") for task in tasks]
    return [("", question) for group in zip(*by_task, strict=True) for question in group]
