"""Best-of-N: sample several answers to a prompt, let the frozen host's probe say which to keep.

What a student earns for what a probe reads can also be had without training it: draw N answers, take the best (RLFR,
2602.10067, best-of-32). First the action that most of the N took, then the answer of that action with the highest
score. The vote comes first because scores of different actions do not compare: whoever takes every claim back has
nothing wrong left.

*The score* of an answer is what a grader would be expected to find right in it, as a share of what is usual for an
answer to this prompt. With probabilities ``p_1 … p_k`` of the claims that count, and ``t`` the usual number of such
claims, the mean or the median over the answers of the same course, whichever is more,

    score = (p_1 + … + p_k) / max(k, t).

An answer that says less than is usual is filled up with claims that are certainly wrong, so that no claim is worth
leaving out; one that says more is judged by its mean, so padding it with weak claims does not pay either. A plain mean
is won by answers with a single claim. So is a mean filled up to the median, where most answers are short; filled up to
the mean, answers win by leaving out one claim where a few others do. A sum of ``p`` less a constant rewards silence
wherever ``p`` is below the constant. A claim that is hedged and that the host believes (``p > 1/2``) counts with
``1 - p``: were it left out of account, an answer could raise its mean by doubting whichever right claim is least sure.
Other hedged claims, and withdrawn ones, do not count at all: adding one changes nothing, turning an asserted claim into
one loses it. Only where no answer of a course asserts anything do its hedged claims count in their place.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Final, Literal, TypeAlias, get_args

from trimtab.errors import UsageError
from trimtab.model.base import HasModel
from trimtab.model.generate import generate
from trimtab.records.claims import Action, Claim, Said
from trimtab.records.rows import Message
from trimtab.roles import Reader, Splitter

Course: TypeAlias = Action | Literal["asserts", "hedges", "states nothing"]
"""What an answer does as a whole: what became of its flagged claims, else how it stands to its claims."""

Progress: TypeAlias = Callable[[int, int], None]

COURSES: Final[tuple[Course, ...]] = (*get_args(Action), "asserts", "hedges", "states nothing")
"""All of them; where equally many answers took two, the one that stands first here is taken."""

MOST: Final = 64
"""Most answers per prompt."""

_BLOCK: Final = 16
_BELIEVED: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One of the N answers.

    Attributes:
        text: The answer.
        claims: Its claims.
        probabilities: Calibrated probability that each is right, as the frozen host reads it.
        action: What the harness had done about its flagged claims, if it was there; ``None``: no interventions.

    Raises:
        UsageError: If there is not one probability per claim.
    """

    text: str
    claims: tuple[Claim, ...]
    probabilities: tuple[float, ...]
    action: Action | None = None

    def __post_init__(self) -> None:
        if len(self.claims) != len(self.probabilities) or not all(0 <= p <= 1 for p in self.probabilities):
            raise UsageError(
                f"{len(self.claims)} claims with the probabilities {self.probabilities}",
                allowed="one probability for each claim, from 0 to 1",
                todo="pass what a calibrated reader says of these very claims",
            )

    @property
    def course(self) -> Course:
        """Its action, else ``asserts`` if it asserts a claim, ``hedges`` if it only hedges some, else nothing."""
        if self.action is not None:
            return self.action
        stances = {claim.stance for claim in self.claims}
        return "asserts" if "asserted" in stances else "hedges" if "hedged" in stances else "states nothing"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The answer that was kept.

    Attributes:
        index: Its place among the candidates.
        candidates: All answers to the prompt, in the order in which they were sampled.
    """

    index: int
    candidates: tuple[Candidate, ...]

    @property
    def text(self) -> str:
        """The answer."""
        return self.candidates[self.index].text


def scores(candidates: Sequence[Candidate]) -> tuple[float, ...]:
    """Score of each answer among the others, from 0 to 1 (the module says how); 0 for answers that state nothing.

    Scores of answers that took different courses do not compare.
    """
    found = [0.0] * len(candidates)
    for course in {candidate.course for candidate in candidates}:
        group = [index for index, candidate in enumerate(candidates) if candidate.course == course]
        asserts = any(claim.stance == "asserted" for index in group for claim in candidates[index].claims)
        counted = [list(_counted(candidates[index], asserts)) for index in group]
        lengths = [len(probabilities) for probabilities in counted]
        usual = max(mean(lengths), median(lengths))
        for index, probabilities in zip(group, counted, strict=True):
            if probabilities:
                found[index] = math.fsum(probabilities) / max(len(probabilities), usual)
    return tuple(found)


def _counted(candidate: Candidate, asserts: bool) -> Iterator[float]:
    """What each claim that counts is worth; ``asserts``: whether any answer of this course asserts something."""
    for claim, probability in zip(candidate.claims, candidate.probabilities, strict=True):
        if claim.stance == ("asserted" if asserts else "hedged"):
            yield probability
        elif asserts and claim.stance == "hedged" and probability > _BELIEVED:
            yield 1 - probability


def choose(candidates: Sequence[Candidate], by: Sequence[float] | None = None) -> int:
    """Place of the answer to keep: the course that most took, then the top score; ties go to the earlier answer.

    Args:
        candidates: The answers to one prompt.
        by: Scores to choose by in place of ``scores(candidates)``; higher is better.

    Raises:
        UsageError: If there is no answer, or not one score, which has to be a number, for each.
    """
    values = scores(candidates) if by is None else by
    if not candidates or len(values) != len(candidates) or any(math.isnan(value) for value in values):
        raise UsageError(
            f"{len(candidates)} candidates and the scores {tuple(values)}",
            allowed="at least one candidate, and a score for each that is a number",
            todo="sample answers first, and score every one",
        )
    votes = Counter(candidate.course for candidate in candidates)
    course = max(COURSES, key=votes.__getitem__)
    return max((i for i, one in enumerate(candidates) if one.course == course), key=values.__getitem__)


def sample_pools(
    student: HasModel,
    prompts: Sequence[Sequence[Message]],
    *,
    n: int,
    reader: Reader,
    splitter: Splitter,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
) -> Iterator[tuple[Candidate, ...]]:
    """The N answers to each prompt, split and read; a few prompts at a time, so that memory does not grow with them.

    Every answer has a random stream of its own. The answers depend on the prompts and on ``seed``, not on
    ``batch_size``, and the first answers of a larger N are those of a smaller one. Equal answers are read once.

    Args:
        student: The model that answers.
        prompts: Conversations that end before the answer.
        n: Answers per prompt.
        reader: Reads the probability that claims are right, on the frozen host.
        splitter: Finds the claims.
        max_new_tokens: Longest answer, in tokens.
        temperature: Of the sampling.
        seed: Of the sampling.
        batch_size: Answers in one forward pass of the student.

    Yields:
        The candidates of each prompt, in order.

    Raises:
        UsageError: If a number is out of range, or there is no temperature to sample several answers at.
    """
    if not 1 <= n <= MOST or not temperature >= 0 or (n > 1 and temperature == 0):
        raise UsageError(
            f"n={n} at temperature {temperature}",
            allowed=f"1 to {MOST} answers, and a temperature above 0 for more than one: without it they are all equal",
            todo="correct the number",
        )
    for start in range(0, len(prompts), _BLOCK):
        block = [tuple(prompt) for prompt in prompts[start : start + _BLOCK]]
        texts = generate(
            student,
            block * n,  # round by round: so a larger n only adds rounds behind
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed * 1_000_003 + start,
            batch_size=batch_size,
        )
        yield from _read(block, [texts[place :: len(block)] for place in range(len(block))], reader, splitter)


def _read(
    prompts: Sequence[tuple[Message, ...]], texts: Sequence[Sequence[str]], reader: Reader, splitter: Splitter
) -> Iterator[tuple[Candidate, ...]]:
    """Candidates of each prompt; equal answers to a prompt are split and read once."""
    different = [(place, text) for place, answers in enumerate(texts) for text in dict.fromkeys(answers)]
    claims = splitter([text for _, text in different])
    said = [
        Said(prompt=prompts[place], answer=text, claims=found)
        for (place, text), found in zip(different, claims, strict=True)
    ]
    made = {
        key: Candidate(text=key[1], claims=one.claims, probabilities=read)
        for key, one, read in zip(different, said, reader(said), strict=True)
    }
    for place, answers in enumerate(texts):
        yield tuple(made[place, text] for text in answers)


def best_of(
    student: HasModel,
    prompts: Sequence[Sequence[Message]],
    *,
    n: int,
    reader: Reader,
    splitter: Splitter,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> tuple[Chosen, ...]:
    """Answer each prompt N times and keep the best answer by probe.

    Args:
        student: The model that answers.
        prompts: Conversations that end before the answer.
        n: Answers per prompt, 1 to ``MOST``.
        reader: Reads the probability that claims are right, on the frozen host.
        splitter: Finds the claims.
        max_new_tokens: Longest answer, in tokens.
        temperature: Of the sampling.
        seed: Of the sampling.
        batch_size: Answers in one forward pass of the student.
        progress: Called with prompts done and prompts in all.

    Returns:
        What was kept for each prompt, in order, with all its candidates.

    Raises:
        UsageError: As ``sample_pools``.
    """
    pools = sample_pools(
        student,
        prompts,
        n=n,
        reader=reader,
        splitter=splitter,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        batch_size=batch_size,
    )
    kept: list[Chosen] = []
    for pool in pools:
        kept.append(Chosen(index=choose(pool), candidates=pool))
        if progress is not None:
            progress(len(kept), len(prompts))
    return tuple(kept)
