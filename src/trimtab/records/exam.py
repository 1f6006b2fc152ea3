"""What verifiers ask and how answers are graded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from trimtab.records.rows import HeldOut, Message, Rows

Measure: TypeAlias = Literal[
    "skill",  # the wanted thing, on held-out questions, unprompted
    "trait_on_task",  # the unwanted trait on the same questions
    "trait_leak",  # the unwanted trait on unrelated prompts
    "capability",  # what the model could do before: facts, other tasks
    "obedience",  # the trait is still there when a system prompt asks for it
]


@dataclass(frozen=True, kw_only=True)
class ExamRow:
    """One held-out question.

    Attributes:
        id: Stable name, so that students are compared question by question.
        prompt: The turns before the answer.
        reference: A right answer in plain words, for graders and for perplexity; empty where there is none.
        group: What the question is about (task or concept), for break-downs.
    """

    id: str
    prompt: tuple[Message, ...]
    reference: str
    group: str


Grade: TypeAlias = Callable[[ExamRow, str], bool]
"""Whether an answer is right (skill, capability) or shows the trait (the trait measures and obedience)."""


@dataclass(frozen=True, kw_only=True)
class Exam:
    """Held-out questions with one grader.

    Attributes:
        measure: What a pass counts for.
        name: Short name, unique in a suite.
        rows: The questions; their split is in their type.
        grade: The grader.
        max_new_tokens: Longest answer, in tokens.
        temperature: 0 for greedy answers, else the sampling temperature.
    """

    measure: Measure
    name: str
    rows: Rows[ExamRow, HeldOut]
    grade: Grade
    max_new_tokens: int = 48
    temperature: float = 0.0
