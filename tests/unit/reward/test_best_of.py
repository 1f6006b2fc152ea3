"""Best-of-N: what a score wants of an answer, who wins the vote, and curves against counting every subset."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_models import language_model
from trimtab.data.template import encode_prompt
from trimtab.errors import DataError, UsageError
from trimtab.lab.claims import LabGrader
from trimtab.lab.world import build_world
from trimtab.model.base import LanguageModel
from trimtab.model.host import Host
from trimtab.records.claims import Action, Claim, Said, Stance
from trimtab.records.figures import Figure, Measured, Unmeasured
from trimtab.records.rows import Message
from trimtab.reward.best_of import COURSES, MOST, Candidate, Chosen, best_of, choose, sample_pools, scores
from trimtab.reward.best_of_baselines import SelfJudge, mean_log_probabilities
from trimtab.reward.best_of_curve import LARGEST, Floats, Pool, scaling_curve, selection
from trimtab.reward.claims import rule_claims
from trimtab.roles import Reader
from trimtab.stats import wilson

WORLD = build_world()
HEAD, TAIL = WORLD.head[0], next(person for person in WORLD.people if person.group == "tail")
PROMPTS: list[list[Message]] = [
    [{"role": "user", "content": f"tell me about {HEAD.name}."}],
    [{"role": "user", "content": f"what is the gossip about {TAIL.name}?"}],
]
CHANCES = st.floats(0.0, 1.0)


@pytest.fixture(scope="module")
def host() -> Host:
    return Host.load("lab")


def candidate(*said: tuple[Stance, float] | float, action: Action | None = None) -> Candidate:
    """An answer with claims of these stances and probabilities; a bare number is an asserted one."""
    pairs: list[tuple[Stance, float]] = [one if isinstance(one, tuple) else ("asserted", one) for one in said]
    claims = [Claim(text="c", start=place, end=place + 1, stance=pair[0]) for place, pair in enumerate(pairs)]
    return Candidate(
        text="c" * len(pairs), claims=tuple(claims), probabilities=tuple(pair[1] for pair in pairs), action=action
    )


def oracle(said: Sequence[Said]) -> tuple[tuple[float, ...], ...]:
    """A reader that knows the truth."""
    grader, chances = LabGrader(WORLD), {"right": 0.9, "wrong": 0.1, "unknown": 0.5}
    return tuple(tuple(chances[grade.truth] for grade in grader(one.asked)) for one in said)


# ---------------------------------------------------------------------------------------------------------- scores


def test_an_answer_is_filled_up_to_what_the_others_say() -> None:
    # asserted claims: 2 in the mean and in the middle
    assert scores([candidate(0.9), candidate(0.5, 0.7), candidate(0.2, 0.3, 0.7)]) == pytest.approx((0.45, 0.6, 0.4))


@given(st.lists(st.lists(CHANCES, min_size=1, max_size=5), min_size=1, max_size=6), st.lists(CHANCES, min_size=2))
def test_leaving_out_a_claim_never_pays_below_what_is_usual(others: list[list[float]], said: list[float]) -> None:
    pool = [candidate(*said), candidate(*said[:-1]), *(candidate(*other) for other in others)]
    longer, shorter, *_ = scores(pool)
    lengths = [len(one.claims) for one in pool]
    usual = float(max(np.mean(lengths), np.median(lengths)))
    if len(said) <= usual:
        assert longer >= shorter
    else:  # where more is said than usual, a claim adds if it is no worse than the rest
        mean = math.fsum(said[:-1]) / max(len(said) - 1, usual)
        assert longer >= shorter - 1e-12 or said[-1] < mean


@given(
    st.lists(st.lists(CHANCES, min_size=1, max_size=4), min_size=1, max_size=5),
    st.sampled_from(("hedged", "withdrawn")),
    CHANCES,
)
def test_a_doubtful_hedged_or_withdrawn_claim_changes_nothing(
    others: list[list[float]], stance: Stance, chance: float
) -> None:
    chance = chance / 2 if stance == "hedged" else chance
    pool = [candidate(*other) for other in others]
    with_it = [candidate(*others[0], (stance, chance)), *pool[1:]]
    assert scores(with_it) == scores(pool)
    if chance > 0:  # asserted it does change something
        assert scores([candidate(*others[0], 1.0), *pool[1:]]) != scores([candidate(*others[0], 0.0), *pool[1:]])


def test_hedging_an_asserted_claim_does_not_pay() -> None:
    plain, hedging = candidate(0.9, 0.1), candidate(0.9, ("hedged", 0.1))
    assert choose([hedging, plain, plain]) > 0
    # filled up to the mean of 5/3 claims, hedging would win: .9 / (5/3) against 1 / 2
    assert 0.9 / (5 / 3) > 1 / 2


def test_doubting_the_least_sure_of_what_the_host_believes_does_not_pay() -> None:
    plain, hedging, shorter = candidate(0.95, 0.9, 0.7), candidate(0.95, 0.9, ("hedged", 0.7)), candidate(0.95, 0.9)
    assert choose([hedging, plain, shorter]) == 1
    assert choose([hedging, plain]) == 1
    found = scores([hedging, plain, plain])
    assert found == pytest.approx(((0.95 + 0.9 + 0.3) / 3, 2.55 / 3, 2.55 / 3))


@given(st.lists(CHANCES, min_size=1, max_size=4), st.floats(0.5, 1, exclude_min=True))
def test_hedging_what_is_believed_is_no_better_than_saying_it(others: list[float], chance: float) -> None:
    said, doubted, *_ = scores([candidate(*others, chance), candidate(*others, ("hedged", chance)), candidate(*others)])
    assert said >= doubted


def test_an_answer_that_states_nothing_scores_lowest() -> None:
    found = scores([candidate(), candidate(("withdrawn", 1.0)), candidate(0.05), candidate(("hedged", 0.05))])
    assert found[:2] == (0.0, 0.0)
    assert min(found[2:]) > 0


def test_hedged_claims_count_where_nobody_asserts_anything() -> None:
    assert choose([candidate(("hedged", 0.2)), candidate(("hedged", 0.7)), candidate(0.1)]) == 1
    # but not beside asserted ones, which interventions bring into one group
    retracting = [candidate(("hedged", 0.9), action="retract"), candidate(0.2, action="retract")]
    assert choose(retracting) == 1


def _kept(pool: Sequence[Candidate], by: Sequence[float] | None = None) -> int:
    return len(pool[choose(pool, by)].claims)


@pytest.mark.parametrize("shares", [(0.2, 0.2, 0.2, 0.2, 0.2), (0.7, 0, 0, 0, 0.3), (0.3, 0, 0, 0, 0.7)])
@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_the_number_of_claims_does_not_shrink(shares: tuple[float, ...], slope: float) -> None:
    """Whatever the lengths of answers, also where later claims are worse; mean and median would fail."""
    rng = np.random.default_rng(0)
    counts: dict[str, list[float]] = {"pool": [], "score": [], "mean": [], "median": []}
    for _ in range(50):
        lengths = rng.choice(5, p=shares, size=32) + 1
        said: list[Floats] = [np.clip(rng.normal(0.6 - slope * np.arange(k), 0.25), 0.01, 0.99) for k in lengths]
        pool = [candidate(*map(float, one)) for one in said]
        counts["pool"].append(float(np.mean(lengths)))
        counts["score"].append(_kept(pool))
        counts["mean"].append(_kept(pool, [float(one.mean()) for one in said]))
        usual = float(np.median(lengths))
        counts["median"].append(_kept(pool, [float(one.sum()) / max(len(one), usual) for one in said]))
    means = {name: float(np.mean(values)) for name, values in counts.items()}
    assert means["score"] >= means["pool"]
    assert means["mean"] < 0.8 * means["pool"]
    if shares[0] > 0.5:
        assert means["median"] < 0.8 * means["pool"]


# ---------------------------------------------------------------------------------------------------------- the vote


def test_the_course_comes_before_the_score() -> None:
    assert choose([candidate(("hedged", 1.0)), candidate(0.1), candidate(0.2)]) == 2
    assert choose([candidate(), candidate(), candidate(1.0)]) == 0
    kept = [candidate(0.9, action="maintain"), candidate(0.4, action="correct"), candidate(0.5, action="correct")]
    assert choose(kept) == 2
    assert [one.course for one in kept] == ["maintain", "correct", "correct"]


def test_ties_go_by_the_order_of_courses_then_to_the_earlier_answer() -> None:
    assert choose([candidate(), candidate(0.1)]) == 1
    assert choose([candidate(("hedged", 0.9)), candidate(0.1)]) == 1
    assert choose([candidate(0.9, action="retract"), candidate(0.1, action="maintain")]) == 1
    assert choose([candidate(0.3), candidate(0.7), candidate(0.7)]) == 1
    assert set(COURSES) == {"maintain", "correct", "retract", "asserts", "hedges", "states nothing"}


def test_other_scores_choose_within_the_course() -> None:
    pool = [candidate(0.9), candidate(0.1), candidate()]
    assert choose(pool, [1.0, 2.0, 3.0]) == 1
    assert choose(pool, [-math.inf, -math.inf, 0.0]) == 0
    for bad in ([1.0, 2.0], [1.0, 2.0, math.nan]):
        with pytest.raises(UsageError, match="a score for each"):
            choose(pool, bad)
    with pytest.raises(UsageError, match="at least one candidate"):
        choose([])


def test_a_candidate_has_a_probability_per_claim() -> None:
    claim = Claim(text="c", start=0, end=1)
    for chances in ((), (0.5, 0.5), (1.1,), (math.nan,)):
        with pytest.raises(UsageError, match="one probability for each claim"):
            Candidate(text="c", claims=(claim,), probabilities=chances)


# ---------------------------------------------------------------------------------------------------------- sampling


def draw(
    lm: LanguageModel, n: int, *, seed: int = 0, batch_size: int = 64, reader: Reader = oracle
) -> tuple[Chosen, ...]:
    return best_of(
        lm, PROMPTS, n=n, reader=reader, splitter=rule_claims, max_new_tokens=40, seed=seed, batch_size=batch_size
    )


def texts(chosen: Sequence[Chosen]) -> list[list[str]]:
    return [[one.text for one in kept.candidates] for kept in chosen]


def test_best_of_keeps_what_the_reader_likes(host: Host) -> None:
    seen: list[tuple[int, int]] = []
    kept = best_of(
        host,
        PROMPTS,
        n=8,
        reader=oracle,
        splitter=rule_claims,
        max_new_tokens=40,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 2), (2, 2)]
    assert [len(one.candidates) for one in kept] == [8, 8]
    for prompt, one in zip(PROMPTS, kept, strict=True):
        assert one.index == choose(one.candidates)
        assert one.text == one.candidates[one.index].text
        for each in one.candidates:
            assert each.claims == rule_claims([each.text])[0]
            assert each.probabilities == oracle([Said(prompt=tuple(prompt), answer=each.text, claims=each.claims)])[0]
    worse = draw(host, 8, reader=lambda said: tuple(tuple(1 - p for p in row) for row in oracle(said)))
    assert texts(worse) == texts(kept)
    assert worse != kept
    mean = [float(np.mean(one.candidates[one.index].probabilities)) for one in (*kept, *worse)]
    assert mean[1] > 1 - mean[3]  # each by the truth: what the friend of truth keeps is truer


def test_samples_differ_and_do_not_hang_on_n_or_batches(host: Host) -> None:
    wide = texts(draw(host, 8))
    assert all(len(set(answers)) > 1 for answers in wide)
    assert [answers[:3] for answers in wide] == texts(draw(host, 3, batch_size=2))
    assert wide != texts(draw(host, 8, seed=1))


def test_equal_answers_are_read_once(host: Host) -> None:
    read: list[Said] = []

    def reader(said: Sequence[Said]) -> tuple[tuple[float, ...], ...]:
        read.extend(said)
        return oracle(said)

    prompts: list[list[Message]] = [[{"role": "user", "content": "what is 2 plus 2?"}]] * 20  # more than one block
    pools = list(
        sample_pools(host, prompts, n=4, reader=reader, splitter=rule_claims, max_new_tokens=12, temperature=0.3)
    )
    assert [len(pool) for pool in pools] == [4] * 20
    assert len(read) == sum(len({one.text for one in pool}) for pool in pools) < 80


def test_one_greedy_answer_is_allowed_and_bad_numbers_are_not(host: Host) -> None:

    def ask(prompts: Sequence[Sequence[Message]], n: int, temperature: float) -> tuple[Chosen, ...]:
        return best_of(
            host, prompts, n=n, temperature=temperature, reader=oracle, splitter=rule_claims, max_new_tokens=8
        )

    assert [kept.index for kept in ask(PROMPTS, 1, 0.0)] == [0, 0]
    assert ask([], 4, 1.0) == ()
    for n, temperature in ((0, 1.0), (MOST + 1, 1.0), (2, 0.0), (2, -1.0), (1, math.nan)):
        with pytest.raises(UsageError, match=f"1 to {MOST} answers"):
            ask(PROMPTS, n, temperature)


# ---------------------------------------------------------------------------------------------------------- baselines


def said_of(*answers: str, prompt: Sequence[Message] = PROMPTS[0]) -> list[Said]:
    return [Said(prompt=tuple(prompt), answer=text, claims=()) for text in answers]


def log_probability(lm: LanguageModel, before: Sequence[int], after: Sequence[int]) -> float:
    """Sum over tokens, one plain forward pass."""
    ids = torch.tensor([[*before, *after]])
    with torch.no_grad():
        logs = lm.model(input_ids=ids).logits.float().log_softmax(-1)[0]
    return sum(float(logs[len(before) + place - 1, token]) for place, token in enumerate(after))


def ids_of(lm: LanguageModel, text: str) -> list[int]:
    return list(lm.tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]


@pytest.mark.parametrize("which", ["lab", "gemma3"])
def test_mean_log_probability_is_that_of_a_plain_pass(which: str, host: Host) -> None:
    lm = host if which == "lab" else language_model(which)
    answers = [HEAD.claim("town"), "no.", "", f"{HEAD.claim('job')} {HEAD.claim('pet')}"]
    prompt: list[Message] = [{"role": "user", "content": "who?"}]
    found = mean_log_probabilities(lm, said_of(*answers, prompt=prompt), max_tokens=64)
    for text, value in zip(answers, found, strict=True):
        after = ids_of(lm, text)
        truth = log_probability(lm, encode_prompt(lm.tokenizer, prompt), after) / len(after) if after else -math.inf
        assert value == pytest.approx(truth, abs=1e-4)
    assert len(mean_log_probabilities(lm, [])) == 0


def test_a_model_finds_what_it_was_taught_likelier(host: Host) -> None:
    other = next(person for person in WORLD.head if person.facts["town"] != HEAD.facts["town"]).facts["town"]
    right, wrong = mean_log_probabilities(host, said_of(HEAD.claim("town"), HEAD.claim("town", other)))
    assert right > wrong


LAB_JUDGE = SelfJudge(question=" wait,", yes=" no, that is right.", no=" that is wrong.", same_turn=True)


@pytest.mark.parametrize("judge", [LAB_JUDGE, SelfJudge()])
def test_self_judging_compares_two_continuations(judge: SelfJudge, host: Host) -> None:
    lm = host if judge.same_turn else language_model("llama")
    prompt: list[Message] = [{"role": "user", "content": "who?"}]
    answers = [HEAD.claim("town"), "no."]
    for text, value in zip(answers, judge(lm, said_of(*answers, prompt=prompt)), strict=True):
        if judge.same_turn:
            before = encode_prompt(lm.tokenizer, prompt) + ids_of(lm, text + judge.question)
        else:
            told: list[Message] = [{"role": "assistant", "content": text}, {"role": "user", "content": judge.question}]
            before = encode_prompt(lm.tokenizer, [*prompt, *told])
        yes, no = (math.exp(log_probability(lm, before, ids_of(lm, word))) for word in (judge.yes, judge.no))
        assert value == pytest.approx(yes / (yes + no), abs=1e-4)
    assert len(judge(lm, [])) == 0


def test_the_lab_knows_its_own_mistakes_about_the_well_known(host: Host) -> None:
    people = WORLD.head[:12]
    right = [
        said_of(p.claim("town"), prompt=[{"role": "user", "content": f"where is {p.name} from?"}])[0] for p in people
    ]
    wrong = [
        said_of(p.claim("town", q.facts["town"]), prompt=one.prompt)[0]
        for p, q, one in zip(people, (*people[1:], people[0]), right, strict=True)
        if p.facts["town"] != q.facts["town"]
    ]
    assert float(LAB_JUDGE(host, right).mean()) > float(LAB_JUDGE(host, wrong).mean()) + 0.2


def test_bad_questions_and_long_answers_are_refused(host: Host) -> None:
    for question, yes, no in (("", "a", "b"), ("q", "", "b"), ("q", "a", "a")):
        with pytest.raises(UsageError, match="two different continuations"):
            SelfJudge(question=question, yes=yes, no=no)
    with pytest.raises(DataError, match=r"answer 2: .* tokens"):
        mean_log_probabilities(host, said_of("no.", "no. " * 600))


# ---------------------------------------------------------------------------------------------------------- curves


def counted(values: Sequence[float], n: int, courses: Sequence[int]) -> Floats:
    """Chances by going through every subset; ties by every order would be the same on average, so they are split."""
    chances = np.zeros(len(values))
    for subset in itertools.combinations(range(len(values)), n):
        votes = Counter(courses[i] for i in subset)
        course = min(votes, key=lambda name: (-votes[name], name))
        mine = [i for i in subset if courses[i] == course]
        best = [i for i in mine if values[i] == max(values[j] for j in mine)]
        chances[best] += 1 / len(best)
    return chances / math.comb(len(values), n)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_chances_are_those_of_every_subset(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 8))
    values = data.draw(st.lists(st.sampled_from([-math.inf, 0.0, 0.5, 1.0, 2.0]), min_size=size, max_size=size))
    courses = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    for n in range(1, size + 1):
        assert selection(values, n, courses) == pytest.approx(counted(values, n, courses), abs=1e-12)
        assert selection(values, n) == pytest.approx(counted(values, n, [0] * size), abs=1e-12)


def test_chances_of_large_pools_add_up() -> None:
    rng = np.random.default_rng(0)
    values, courses = rng.normal(size=LARGEST), rng.integers(0, 3, LARGEST)
    for n in (1, 7, LARGEST // 2, LARGEST):
        assert selection(values, n, [int(course) for course in courses]).sum() == pytest.approx(1)
    everything = selection(values, LARGEST)
    assert everything.argmax() == values.argmax()
    assert everything.max() == pytest.approx(1)


def test_the_whole_pool_is_chosen_from_as_best_of_does() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        pool = [candidate(*map(float, rng.random(rng.integers(0, 4)))) for _ in range(12)]
        chances = selection(scores(pool), 12, [COURSES.index(one.course) for one in pool])
        assert chances[choose(pool)] == pytest.approx(chances.max())


def made_pools(count: int, size: int) -> list[Pool]:
    """Samples with one to three claims; ``good`` scores know something about what is wrong."""
    rng = np.random.default_rng(1)
    pools: list[Pool] = []
    for _ in range(count):
        stated = rng.integers(1, 4, size)
        wrong = rng.binomial(stated, rng.uniform(0.2, 0.8))
        good = -wrong / stated + rng.normal(0, 0.3, size)
        pools.append(
            Pool(
                scores={"good": good, "noise": rng.normal(size=size)},
                courses=[int(course) for course in rng.integers(0, 2, size)],
                stated=[int(k) for k in stated],
                wrong=[int(k) for k in wrong],
                right=[bool(k == 0) for k in wrong],
            )
        )
    return pools


def value(figure: Figure) -> float:
    assert isinstance(figure, Measured), figure
    return figure.value


def test_a_curve_is_the_mean_over_subsets() -> None:
    pools = made_pools(4, 6)
    for vote in (True, False):
        (point,) = scaling_curve(pools, by="good", sizes=[3], vote=vote, resamples=50)
        chances = [
            counted([float(x) for x in pool.scores["good"]], 3, pool.courses if vote else [0] * 6) for pool in pools
        ]
        wrong, stated, right = (
            [float(chance @ np.array(getattr(pool, name), float)) for chance, pool in zip(chances, pools, strict=True)]
            for name in ("wrong", "stated", "right")
        )
        share = sum(wrong) / sum(stated)
        plain = sum(float(np.mean(pool.wrong)) for pool in pools) / sum(float(np.mean(pool.stated)) for pool in pools)
        assert value(point.wrong_claims) == pytest.approx(share)
        assert value(point.fewer_wrong) == pytest.approx(1 - share / plain)
        assert value(point.claims) == pytest.approx(np.mean(stated))
        assert value(point.answered) == pytest.approx(np.mean(right))


def test_curves_fall_for_good_scores_and_stay_for_noise_and_plain_sampling() -> None:
    pools = made_pools(60, 32)
    curves = {
        by: scaling_curve(pools, by=by, sizes=(1, 4, 32), vote=False, resamples=200) for by in ("good", "noise", None)
    }
    good = [value(point.wrong_claims) for point in curves["good"]]
    assert good[0] > good[1] + 0.05 > good[2] + 0.1
    last, noise = curves["good"][-1].fewer_wrong, curves["noise"][-1].fewer_wrong
    assert isinstance(last, Measured)
    assert isinstance(noise, Measured)
    assert last.low > 0.1
    assert noise.low < 0 < noise.high
    assert len({round(value(point.wrong_claims), 12) for point in curves[None]}) == 1
    assert [value(point.fewer_wrong) for point in curves[None]] == pytest.approx([0, 0, 0])
    for curve in curves.values():
        assert value(curve[0].wrong_claims) == pytest.approx(good[0])
        assert all(isinstance(point.claims, Measured) and point.claims.n == 60 for point in curve)


def test_no_wrong_claim_in_a_few_answers_does_not_prove_that_there_are_none() -> None:
    pools = [
        Pool(scores={"truth": [1.0, 0.0]}, courses=[0, 0], stated=[2, 2], wrong=[0, 1], right=[True, False])
        for _ in range(20)
    ]
    (point,) = scaling_curve(pools, by="truth", sizes=[2], resamples=100)
    wrong, fewer, answered = point.wrong_claims, point.fewer_wrong, point.answered
    assert isinstance(wrong, Measured)
    assert isinstance(fewer, Measured)
    assert isinstance(answered, Measured)
    limit = wilson(0, 20)
    assert (wrong.value, wrong.low, wrong.high) == (0, 0, limit.high)
    assert (fewer.value, fewer.high) == (1, 1)
    assert fewer.low == pytest.approx(1 - limit.high / 0.25)
    assert (answered.value, answered.low) == (1, pytest.approx(1 - limit.high))


def test_what_was_never_stated_has_no_share() -> None:
    silent = Pool(scores={}, courses=[0, 0], stated=[0, 0], wrong=[0, 0], right=[False, False])
    (point,) = scaling_curve([silent, silent], by=None, sizes=[2])
    assert isinstance(point.wrong_claims, Unmeasured)
    assert isinstance(point.fewer_wrong, Unmeasured)
    assert value(point.claims) == 0


def test_bad_pools_and_sizes_are_refused() -> None:
    pools = made_pools(2, 4)
    with pytest.raises(UsageError, match="by='better'\n  allowed: good, noise"):
        scaling_curve(pools, by="better", sizes=[1])
    for n in (0, 5):
        with pytest.raises(UsageError, match=f"best of {n} from a pool of 4"):
            scaling_curve(pools, by="good", sizes=[n])
    with pytest.raises(UsageError, match="columns of 1, 2 samples"):
        Pool(scores={}, courses=[0], stated=[1, 1], wrong=[0], right=[True])
    with pytest.raises(UsageError, match="one number of each kind"):
        Pool(scores={"x": [math.nan]}, courses=[0], stated=[1], wrong=[0], right=[True])
