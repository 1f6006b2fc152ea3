"""Best-of-n on the lab: how far does choosing by probe go, and does it beat the model's own confidence?

One pool of samples per question about held-out people, well known and rarely mentioned; every figure is the exact mean
over subsets of the pool (``reward.best_of_curve``). All choosers but plain sampling choose among the answers that win
the vote, so that what differs is the score alone. Beside them: the probe without the vote, the probe by plain mean
(which is free to say less), and the truth itself in place of the probabilities: the most that this score can do.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias, cast

import numpy as np

from science.common import Clock, plain, write_result
from trimtab.lab.claims import LabGrader
from trimtab.lab.corpus import GOSSIP_ASKS
from trimtab.lab.tasks import LONG_ASKS
from trimtab.lab.world import ATTRIBUTES, Entity, World, build_world
from trimtab.model.generate import generate
from trimtab.model.host import Host
from trimtab.records.claims import Asked, Said, Truth
from trimtab.records.rows import Fit, HeldOut, Message, SplitT_co, Tune
from trimtab.reward.best_of import COURSES, Candidate, sample_pools, scores
from trimtab.reward.best_of_baselines import SelfJudge, mean_log_probabilities
from trimtab.reward.best_of_curve import SIZES, CurvePoint, Pool, scaling_curve
from trimtab.reward.claims import rule_claims
from trimtab.reward.fit import GradedAnswers, fit_claim_probe
from trimtab.reward.reading import ClaimReader
from trimtab.roles import Reader

QUESTIONS: Final = 120
SAMPLES: Final = 64
MAX_NEW_TOKENS: Final = 60
FITTED_ON: Final = (1800, 700, 700)
"""Answers for Fit, Tune and the evidence of the probe."""

SELF_JUDGE: Final = SelfJudge(question=" wait,", yes=" no, that is right.", no=" that is wrong.", same_turn=True)
CHOOSERS: Final[Mapping[str, tuple[str | None, bool]]] = {
    "plain sampling": (None, False),
    "vote": (None, True),
    "probe": ("probe", True),
    "self-judge": ("self-judge", True),
    "log-probability": ("log-probability", True),
    "probe, no vote": ("probe", False),
    "probe, plain mean": ("probe, plain mean", True),
    "truth": ("truth", True),
}
"""Whose scores choose, and whether the vote comes first."""

Prompt: TypeAlias = tuple[Message, ...]
ReaderFactory: TypeAlias = Callable[[Host, World, int], Reader]
"""Makes the reader from host, world and seed."""


def asked_about(world: World, split: type[SplitT_co], count: int, seed: int) -> list[tuple[Prompt, Entity]]:
    """Questions for single facts, long answers and gossip in turn, about people of one split."""
    rng = random.Random(f"best-of {split.__name__} {seed}")
    people = [person for person in world.people if person.split is split]
    found: list[tuple[Prompt, Entity]] = []
    for place in range(count):
        person = rng.choice(people)
        fact = ATTRIBUTES[rng.choice(list(person.facts))].wordings(split)
        question = rng.choice((fact, LONG_ASKS, GOSSIP_ASKS)[place % 3]).format(name=person.name)
        found.append((({"role": "user", "content": question},), person))
    return found


def graded(host: Host, world: World, split: type[SplitT_co], count: int, seed: int) -> GradedAnswers[SplitT_co]:
    """The host's own answers about people of one split, graded."""
    asked = asked_about(world, split, count, seed)
    prompts = [prompt for prompt, _ in asked]
    texts = generate(host, prompts, max_new_tokens=MAX_NEW_TOKENS, temperature=1.0, seed=seed + 1, batch_size=256)
    said = tuple(
        Said(prompt=prompt, answer=text, claims=claims)
        for prompt, text, claims in zip(prompts, texts, rule_claims(texts), strict=True)
    )
    grader = LabGrader(world)
    return GradedAnswers(
        said=said,
        grades=tuple(grader(one.asked) for one in said),
        groups=tuple(person.name for _, person in asked),
        split=split,
    )


def probe_reader(host: Host, world: World, seed: int) -> Reader:
    """A claim probe fitted on the host's answers about people who are not asked about later."""
    fit, tune, evidence = FITTED_ON
    probe = fit_claim_probe(
        host,
        graded(host, world, Fit, fit, seed),
        graded(host, world, Tune, tune, seed),
        graded(host, world, HeldOut, evidence, seed + 1000),
        seed=seed,
    )
    return ClaimReader(host, probe)


def truths(world: World, prompt: Prompt, candidate: Candidate) -> tuple[Truth, ...]:
    """What the grader says of each claim."""
    asked = [Asked(prompt=prompt, answer=candidate.text, claim=claim) for claim in candidate.claims]
    return tuple(grade.truth for grade in LabGrader(world)(asked))


def plain_mean(candidate: Candidate) -> float:
    """Mean probability of the asserted claims, however few."""
    pairs = zip(candidate.claims, candidate.probabilities, strict=True)
    return float(np.mean([p for claim, p in pairs if claim.stance == "asserted"] or [0.0]))


def scored(host: Host, world: World, prompt: Prompt, candidates: Sequence[Candidate]) -> Pool:
    """What each answer could be chosen by, and what came of it; equal answers are scored and graded once."""
    different = {one.text: one for one in candidates}
    said = [Said(prompt=prompt, answer=one.text, claims=one.claims) for one in different.values()]
    judged = dict(zip(different, SELF_JUDGE(host, said), strict=True))
    likely = dict(zip(different, mean_log_probabilities(host, said), strict=True))
    known = {text: truths(world, prompt, one) for text, one in different.items()}
    told = [replace(one, probabilities=tuple(float(t == "right") for t in known[one.text])) for one in candidates]
    asserted = [
        [truth for claim, truth in zip(one.claims, known[one.text], strict=True) if claim.stance == "asserted"]
        for one in candidates
    ]
    return Pool(
        scores={
            "probe": scores(candidates),
            "probe, plain mean": [plain_mean(one) for one in candidates],
            "self-judge": [judged[one.text] for one in candidates],
            "log-probability": [likely[one.text] for one in candidates],
            "truth": scores(told),
        },
        courses=[COURSES.index(one.course) for one in candidates],
        stated=[sum(claim.stands for claim in one.claims) for one in candidates],
        wrong=[found.count("wrong") for found in asserted],
        right=["right" in found and "wrong" not in found for found in asserted],
    )


def curve_lines(pools: Sequence[Pool], sizes: Sequence[int], scope: str) -> list[dict[str, object]]:
    """One line per chooser and n."""
    return [
        {"scope": scope, "chooser": name, "n": point.n, **figures(point)}
        for name, (by, vote) in CHOOSERS.items()
        for point in scaling_curve(pools, by=by, vote=vote, sizes=sizes)
    ]


def figures(point: CurvePoint) -> dict[str, object]:
    """The figures of a point for JSON."""
    return {name: plain(getattr(point, name)) for name in ("wrong_claims", "fewer_wrong", "claims", "answered")}


def run(
    seed: int = 0,
    *,
    reader: ReaderFactory = probe_reader,
    questions: int = QUESTIONS,
    samples: int = SAMPLES,
    name: str = "best_of",
) -> None:
    """Run the experiment and write its result."""
    clock, world, host = Clock(), build_world(), Host.load("lab")
    asked = asked_about(world, HeldOut, questions, seed)
    reads = reader(host, world, seed)
    clock.say("the reader is ready")
    pools: list[Pool] = []
    sampled = sample_pools(
        host,
        [prompt for prompt, _ in asked],
        n=samples,
        reader=reads,
        splitter=rule_claims,
        max_new_tokens=MAX_NEW_TOKENS,
        seed=seed,
        batch_size=256,
    )
    for (prompt, _), candidates in zip(asked, sampled, strict=True):
        pools.append(scored(host, world, prompt, candidates))
        if len(pools) % 16 == 0 or len(pools) == questions:
            clock.say(f"{len(pools)} of {questions} pools")
    known = [person.group == "head" for _, person in asked]
    sizes = [n for n in SIZES if n <= samples]
    scopes = {
        "all people": pools,
        "well-known people": [pool for pool, head in zip(pools, known, strict=True) if head],
        "rarely mentioned people": [pool for pool, head in zip(pools, known, strict=True) if not head],
    }
    lines = [line for scope, part in scopes.items() for line in curve_lines(part, sizes, scope)]
    for line in lines:
        if line["scope"] == "all people" and line["n"] in (1, sizes[-1]):
            print("  " + summary(line))
    settings = {
        "questions": questions,
        "samples": samples,
        "max_new_tokens": MAX_NEW_TOKENS,
        "host": host.content_hash,
        "reader": reader.__name__,
        "choosers": {chooser: {"by": by, "vote": vote} for chooser, (by, vote) in CHOOSERS.items()},
    }
    print(f"wrote {write_result(name, seed=seed, settings=settings, findings={'curves': lines})}")


def summary(line: Mapping[str, object]) -> str:
    """One line for the terminal."""
    keys = ("wrong_claims", "claims", "answered")
    values = {key: cast("Mapping[str, float | None]", line[key])["value"] for key in keys}
    parts = [f"{key} {'unmeasured' if value is None else f'{value:.3f}'}" for key, value in values.items()]
    return f"{line['chooser']}, n={line['n']}: {', '.join(parts)}"
