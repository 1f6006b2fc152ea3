"""Which answers to show: the worst first, and the same question side by side."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from trimtab.records.exam import Measure
from trimtab.records.results import Answer
from trimtab.report.measures import FAILURES, HOST, failed, outcome
from trimtab.report.source import Arm
from trimtab.report.words import Excerpt, excerpt

WORST_PER_MEASURE: Final = 4
QUESTIONS_PER_TOPIC: Final = 3
_TOPICS: Final[tuple[tuple[Measure, str], ...]] = (
    ("skill", "On the task"),
    ("trait_leak", "Unrelated prompts"),
    ("obedience", "Asked for the trait"),
    ("capability", "Old questions"),
)
_LONGEST_PROMPT: Final = 400
_LONGEST_ANSWER: Final = 700


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A question that a control failed, with one of the answers and how many seeds failed it."""

    prompt: Excerpt
    text: Excerpt
    group: str
    seeds: str


@dataclass(frozen=True, kw_only=True)
class Failures:
    """The worst of one measure; ``count`` and ``total`` are answers, of which ``shown`` questions are on the page."""

    label: str
    count: int
    total: int
    questions: int
    shown: tuple[Failure, ...]


@dataclass(frozen=True, kw_only=True)
class WorstOf:
    """The worst answers of one control over all its seeds."""

    control: str
    count: int
    total: int
    measures: tuple[Failures, ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One control's answer, ``None`` where it was not asked; ``grades`` are (words, whether that is bad)."""

    control: str
    text: Excerpt | None
    grades: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, kw_only=True)
class Question:
    """The same question, answered under every control."""

    topic: str
    group: str
    prompt: Excerpt
    cells: tuple[Cell, ...]


def worst(arms: Sequence[Arm], order: Sequence[str]) -> tuple[WorstOf, ...]:
    """Failed answers by control, in the order given; within a measure, questions that most seeds failed come first."""
    out: list[WorstOf] = []
    for control in order:
        answers = [(arm.seed, a) for arm in arms if arm.control == control != HOST for a in arm.answers]
        if answers:
            bad = sum(failed(answer.measure, answer.passed) for _, answer in answers)
            measures = tuple(_failures(measure, answers) for measure in FAILURES)
            out.append(WorstOf(control=control, count=bad, total=len(answers), measures=measures))
    return tuple(out)


def _failures(measure: Measure, answers: Sequence[tuple[str, Answer]]) -> Failures:
    asked = [(seed, answer) for seed, answer in answers if answer.measure == measure]
    by_question: dict[tuple[str, str], list[tuple[str, Answer]]] = defaultdict(list)
    for seed, answer in asked:
        if failed(measure, answer.passed):
            by_question[answer.exam, answer.id].append((seed, answer))
    seeds = len({seed for seed, _ in asked})
    ranked = sorted(by_question.items(), key=lambda item: (-len(item[1]), item[0]))
    return Failures(
        label=FAILURES[measure],
        count=sum(map(len, by_question.values())),
        total=len(asked),
        questions=len(by_question),
        shown=tuple(
            Failure(
                prompt=excerpt(cases[0][1].prompt, _LONGEST_PROMPT),
                text=excerpt(cases[0][1].text, _LONGEST_ANSWER),
                group=cases[0][1].group,
                seeds=f"{len(cases)} of {seeds} seeds" if seeds > 1 else f"seed {cases[0][0]}",
            )
            for _, cases in ranked[:WORST_PER_MEASURE]
        ),
    )


def side_by_side(arms: Sequence[Arm], order: Sequence[str]) -> tuple[Question, ...]:
    """Questions on which controls differ most, a few per topic, from each control's first seed that has answers."""
    columns: dict[str, dict[tuple[str, str], list[Answer]]] = {}
    for control in order:
        answers = next((arm.answers for arm in arms if arm.control == control and arm.answers), ())
        asked: dict[tuple[str, str], list[Answer]] = defaultdict(list)
        for answer in answers:
            asked[answer.id, answer.prompt].append(answer)
        if asked:
            columns[control] = dict(asked)
    topics: dict[str, list[tuple[int, tuple[str, str]]]] = {label: [] for _, label in _TOPICS}
    for key in dict.fromkeys(key for column in columns.values() for key in column):
        graded = [
            tuple(sorted((a.measure, a.passed) for a in column[key])) for column in columns.values() if key in column
        ]
        measures = {measure for grades in graded for measure, _ in grades}
        topic = next((label for measure, label in _TOPICS if measure in measures), _TOPICS[0][1])
        topics[topic].append((Counter(graded).most_common(1)[0][1] - len(graded), key))
    return tuple(
        _question(topic, key, columns)
        for topic, ranked in topics.items()
        for _, key in sorted(ranked)[:QUESTIONS_PER_TOPIC]
    )


def _question(topic: str, key: tuple[str, str], columns: dict[str, dict[tuple[str, str], list[Answer]]]) -> Question:
    cells: list[Cell] = []
    group = ""
    for control, column in columns.items():
        answers = column.get(key, [])
        group = group or next((answer.group for answer in answers), "")
        cells.append(
            Cell(
                control=control,
                text=excerpt(answers[0].text, _LONGEST_ANSWER) if answers else None,
                grades=tuple((outcome(a.measure, a.passed), failed(a.measure, a.passed)) for a in answers),
            )
        )
    return Question(topic=topic, group=group, prompt=excerpt(key[1], _LONGEST_PROMPT), cells=tuple(cells))
