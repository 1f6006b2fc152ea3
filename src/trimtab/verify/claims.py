"""Answers judged claim by claim against the ground truth, and the figures of a stage.

The grader never learns which stage an answer comes from. The probe's readings are kept beside the verdicts, for the
viewer and for the claims that were flagged; no figure but ``flagged_kept`` depends on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trimtab.errors import UsageError
from trimtab.records.claims import Action, Asked, Claim, ClaimQuestion, JudgedAnswer, JudgedClaim, Said
from trimtab.records.figures import Figure, Unmeasured
from trimtab.records.hallucination import StageFigures
from trimtab.roles import Grader, Reader, Splitter
from trimtab.stats import clustered_mean, clustered_ratio

THRESHOLD = 0.5


def judge_answers(
    stage: str,
    seed: int,
    questions: Sequence[ClaimQuestion],
    answers: Sequence[str],
    *,
    splitter: Splitter,
    grader: Grader,
    reader: Reader | None = None,
    actions: Sequence[Sequence[tuple[Claim, Action | None]]] | None = None,
) -> tuple[JudgedAnswer, ...]:
    """Judge the answers of one stage and seed.

    Args:
        stage: Name of the stage.
        seed: Seed of training and sampling.
        questions: What was asked.
        answers: One answer per question.
        splitter: Finds the claims of the final answers.
        grader: Ground truth.
        reader: The frozen host's reading, if it is to be kept.
        actions: What a harness did about the claims of each answer; found again by the claims' words.

    Raises:
        UsageError: If there is not one answer per question.
    """
    if len(questions) != len(answers):
        raise UsageError(
            f"{len(answers)} answers to {len(questions)} questions",
            allowed="one answer per question",
            todo="pass the answers to these very questions",
        )
    claims = splitter(answers)
    said = [
        Said(prompt=question.prompt, answer=answer, claims=found)
        for question, answer, found in zip(questions, answers, claims, strict=True)
    ]
    asked: list[Asked] = [one for answer in said for one in answer.asked]
    grades = iter(grader(asked))
    chances = iter([] if reader is None else [chance for read in reader(said) for chance in read])
    judged: list[JudgedAnswer] = []
    for place, (question, answer) in enumerate(zip(questions, said, strict=True)):
        done: dict[str, Action | None] = {}
        if actions is not None:
            done = {claim.text: action for claim, action in actions[place]}
        judged.append(
            JudgedAnswer(
                stage=stage,
                seed=seed,
                id=question.id,
                group=question.group,
                known=question.known,
                prompt=question.prompt[-1]["content"],
                text=answer.answer,
                claims=tuple(
                    JudgedClaim(
                        text=claim.text,
                        start=claim.start,
                        end=claim.end,
                        stance=claim.stance,
                        probability=None if reader is None else next(chances),
                        truth=next(grades).truth,
                        action=done.get(claim.text),
                    )
                    for claim in answer.claims
                ),
            )
        )
    return tuple(judged)


def stated(claim: JudgedClaim) -> bool:
    """Whether the answer says it, plainly or with doubt, and it can be told whether it is right."""
    return claim.stance != "withdrawn" and claim.truth != "unknown"


def wrong(claim: JudgedClaim) -> bool:
    """Whether the answer says it as a fact, and it is not true."""
    return claim.stance == "asserted" and claim.truth == "wrong"


def answered(answer: JudgedAnswer) -> bool:
    """Whether the answer asserts something right and nothing wrong, and casts no doubt on what is right."""
    right = {claim.stance for claim in answer.claims if claim.truth == "right"}
    return "asserted" in right and "hedged" not in right and not any(map(wrong, answer.claims))


def flagged(claim: JudgedClaim, threshold: float = THRESHOLD) -> bool:
    """Whether the harness took it up, or would have."""
    low = claim.probability is not None and claim.probability < threshold
    return claim.action is not None or low


def stage_figures(
    answers: Sequence[Sequence[JudgedAnswer]],
    *,
    facts: Figure | None = None,
    arithmetic: Figure | None = None,
    threshold: float = THRESHOLD,
) -> StageFigures:
    """The figures of a stage from its judged answers: one sequence per seed, the same questions in each.

    Args:
        answers: Judged answers of one stage.
        facts: Share of a fact exam that is right.
        arithmetic: Share of an arithmetic exam that is right.
        threshold: Probability below which a claim counts as flagged where no harness was at work.

    Raises:
        UsageError: If the seeds were asked different questions.
    """
    if len({tuple(answer.id for answer in row) for row in answers}) != 1:
        raise UsageError(
            f"{len(answers)} seeds with different questions",
            allowed="the same questions in the same order for every seed",
            todo="ask every seed the same questions",
        )

    def share(part: Callable[[JudgedClaim], bool], whole: Callable[[JudgedClaim], bool]) -> Figure:
        return clustered_ratio(
            [[float(sum(part(c) for c in answer.claims if whole(c))) for answer in row] for row in answers],
            [[float(sum(map(whole, answer.claims))) for answer in row] for row in answers],
        )

    known = [[float(answered(answer)) for answer in row if answer.known] for row in answers]
    nothing = Unmeasured(reason="there was no such exam")
    return StageFigures(
        stage=answers[0][0].stage,
        wrong_claims=share(wrong, stated),
        claims=clustered_mean([[float(sum(map(stated, answer.claims))) for answer in row] for row in answers]),
        hedged=share(lambda claim: claim.stance == "hedged", stated),
        ungraded=share(lambda claim: claim.truth == "unknown", lambda claim: claim.stance != "withdrawn"),
        known_answered=clustered_mean(known)
        if known[0]
        else Unmeasured(reason="no question is about something that the host surely knows"),
        flagged_kept=share(
            lambda claim: claim.stance == "asserted",
            lambda claim: claim.truth == "right" and flagged(claim, threshold),
        ),
        facts=facts or nothing,
        arithmetic=arithmetic or nothing,
    )
