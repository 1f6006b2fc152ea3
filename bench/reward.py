"""What rewards cost: a GRPO step that reads claims, and reading against a judge that is asked about every claim."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Semaphore
from typing import Any, cast

import torch
from typing_extensions import override

from bench.capture import cpu_seconds
from bench.measure import Ratio, of_turns, seconds
from bench.passes import random_llama
from trimtab.data.template import encode_prompt
from trimtab.lab.claim_questions import claim_questions
from trimtab.lab.world import PERSON_ATTRIBUTES, build_world
from trimtab.loop.claim_demo import demo_settings
from trimtab.model.generate import context_length
from trimtab.model.host import Host
from trimtab.records.claim_probe import ClaimProbeCard
from trimtab.records.claims import Prompt, Said
from trimtab.records.lens import Calibration
from trimtab.records.rewards import GrpoSettings, Scored
from trimtab.records.rows import Fit, Message
from trimtab.records.site import Site
from trimtab.reward.claims import rule_claims
from trimtab.reward.feature import FeatureReward
from trimtab.reward.network import HIDDEN, TokenNetwork
from trimtab.reward.passes import Placer
from trimtab.reward.reading import NETWORK, ClaimProbe, ClaimReader, plain
from trimtab.roles import Reward
from trimtab.train.grpo import train_policy
from trimtab.train.trainer import TrainProgress

STEPS, FEW_STEPS, FEW_ANSWERS = 12, 7, 32
"""Steps of the lab's training; of the larger model's, and answers in them."""
STILL = 1e-30
"""A learning rate that changes no weight: both trainings go on sampling the same answers."""
ANSWERS, VERDICTS = 16, (32, 256)
"""Answers that are read, and the lengths of a verdict in tokens: one that comes at once, one with reasons."""
TURNS, REPEATS = 3, 3
"""Turns of reading and judge, and readings in a turn, whose mean counts: a reading is short."""

SMALL_MODEL, LARGE_MODEL = (0.15, 0.60), (2.50, 10.00)
"""Assumed prices, in US dollars per million tokens in and out. No vendor's: set those that you pay."""
SEARCH_PRICE, FOUND_TOKENS = 10.00 / 1000, 2000
"""Assumed price of a search in US dollars, and how many tokens of results a judge reads. One search for each claim."""


def reward_costs() -> list[Ratio]:
    """Steps, throughput and prices, on the lab, on an 8-layer Llama of width 256, and on a GPU at the 8B shape in bf16.

    Random weights cost what trained ones cost, so that the probe and the larger models are random.
    """
    lab = Host.load("lab")
    wide = _random(lab, "llama 8x256", random_llama(8, 256, lab.model.config.vocab_size, "cpu", torch.float32))
    found = [
        *rl_steps(lab),
        *rl_steps(wide, steps=FEW_STEPS, answers=FEW_ANSWERS),
        *claim_costs(lab),
        *claim_costs(wide),
    ]
    if torch.cuda.is_available():
        big = random_llama(32, 4096, 128256, "cuda", torch.bfloat16, inner=14336, heads=32, kv_heads=8)
        found += claim_costs(_random(lab, "llama 8B bf16", big))
    return found


def _random(lab: Host, name: str, model: Any) -> Host:  # noqa: ANN401
    return Host(model=model, tokenizer=lab.tokenizer, name=name, content_hash=name)


def random_reader(host: Host) -> ClaimReader:
    """The dearest reading there is: a network on every token, so that the whole host runs, halfway site and head."""
    site, generator = Site(host.n_layers // 2 - 1), torch.Generator().manual_seed(0)
    network = TokenNetwork(
        site=site,
        first=torch.randn(HIDDEN, host.d_model + 2, generator=generator) / host.d_model**0.5,
        first_bias=torch.zeros(HIDDEN),
        second=torch.randn(HIDDEN, generator=generator) / HIDDEN**0.5,
        second_bias=torch.zeros(1),
    )
    card = ClaimProbeCard(
        concept="noise",
        reading="network",
        model=host.name,
        model_hash=host.content_hash,
        features=(NETWORK,),
        weights=(1.0,),
        bias=0.0,
        calibration=Calibration(temperature=1.0),
    )
    return ClaimReader(host, ClaimProbe(card=card, network=network))


@dataclass(kw_only=True)
class Timed(FeatureReward):
    """A feature reward that keeps what it was asked, and the processor time of every step's calls."""

    asked: list[Sequence[str]] = field(default_factory=list[Sequence[str]])
    seconds: list[float] = field(default_factory=list[float])

    @override
    def __call__(
        self, prompts: Sequence[Prompt], answers: Sequence[str], *, ended: Sequence[bool], wanted: Sequence[float]
    ) -> tuple[Scored, ...]:
        """What the reward pays."""
        self.asked.append(answers)
        start = time.process_time()
        scored = super().__call__(prompts, answers, ended=ended, wanted=wanted)
        self.seconds.append(time.process_time() - start)
        return scored


@dataclass(kw_only=True)
class Free:
    """A ``Reward`` that reads nothing: every other answer earns 1."""

    name: str = "free"
    asked: list[Sequence[str]] = field(default_factory=list[Sequence[str]])

    def __call__(
        self, prompts: Sequence[Prompt], answers: Sequence[str], *, ended: Sequence[bool], wanted: Sequence[float]
    ) -> tuple[Scored, ...]:
        """One number after another."""
        del prompts, ended, wanted
        self.asked.append(answers)
        return tuple(Scored(answer=float(place % 2)) for place in range(len(answers)))

    def adapt(self) -> Mapping[str, float]:
        """Nothing to follow."""
        return {}

    def state(self) -> Mapping[str, float]:
        """Nothing to keep."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Nothing to restore."""


class Turn:
    """One of two trainings that take steps in turn, each in a thread of its own that waits while the other computes.

    At the start of every step the random state is set by the number of the step, so that both sample the same.
    """

    def __init__(self, mine: Semaphore, other: Semaphore) -> None:
        self.seconds: list[float] = []
        self._mine, self._other = mine, other
        self._start = 0.0

    def run(self, work: Callable[[Callable[[TrainProgress], None]], object]) -> None:
        """Train from the first turn to the last; whatever happens, the other one goes on."""
        self._mine.acquire()
        try:
            self._begin(0)
            work(self._step)
        finally:
            self._other.release()

    def _step(self, now: TrainProgress) -> None:
        self.seconds.append(time.process_time() - self._start)
        self._other.release()
        self._mine.acquire()
        self._begin(now.step)

    def _begin(self, step: int) -> None:
        torch.manual_seed(step)
        self._start = time.process_time()


def rl_steps(host: Host, *, steps: int = STEPS, answers: int | None = None) -> list[Ratio]:
    """Steps with the feature reward against steps with a free one: same weights, same answers, in turns.

    The free side is TRL's step as it is, with one number per answer; ours has the advantages per claim in it, too.
    Shapes are those of the demo, with other numbers of ``answers`` if wanted. A random model's answers are as long as
    they may be, and all of that is read.
    """
    demo = demo_settings()
    settings = demo.train.model_copy(
        update={
            "per_device_train_batch_size": answers or demo.train.per_device_train_batch_size,
            "max_steps": steps,
            "save_steps": steps,
            "logging_steps": 1,
            "learning_rate": STILL,
            "warmup_steps": 0,
            "lr_scheduler_type": "constant_with_warmup",
            "weight_decay": 0.0,
            "kl_target": None,
            "steps_per_generation": 1,
            "explore_words": None,
        }
    )
    ours = Timed(reader=random_reader(host), settings=demo.reward)
    free = Free()
    our_times, free_times = _side_by_side(
        host, (ours, settings.model_copy(update={"dense": True})), (free, settings.model_copy(update={"dense": False}))
    )
    if ours.asked != free.asked:
        raise AssertionError("the two trainings do not sample the same answers")
    title = f"{host.name}, {settings.per_device_train_batch_size} answers"
    ratios = [mine / theirs for mine, theirs in zip(our_times, free_times, strict=True)][1:]
    shares = [mine / step for mine, step in zip(ours.seconds, our_times, strict=True)][1:]
    return [
        of_turns(f"RL step, {title}", ratios, target=1.10, unit="of the same step of TRL with a free reward"),
        of_turns(f"RL step, {title}: reward", shares, target=None, unit="of the step that it is part of"),
    ]


def _side_by_side(
    host: Host, ours: tuple[Reward, GrpoSettings], theirs: tuple[Reward, GrpoSettings]
) -> tuple[list[float], list[float]]:
    """Processor time of every step of two trainings."""
    prompts = [question.prompt for question in claim_questions(build_world(), Fit, 240, part="train")]
    first, second = Semaphore(1), Semaphore(0)
    turns = Turn(first, second), Turn(second, first)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:

        def start(turn: Turn, reward: Reward, settings: GrpoSettings, name: str) -> Any:  # noqa: ANN401
            def train(progress: Callable[[TrainProgress], None]) -> object:
                wanted = [2.0] * len(prompts)
                place = Path(folder) / name
                return train_policy(host, prompts, wanted, reward, settings, seed=0, folder=place, progress=progress)

            return pool.submit(turn.run, train)

        jobs = [start(turns[0], *ours, "ours"), start(turns[1], *theirs, "theirs")]
        for job in jobs:
            job.result()
    return turns[0].seconds, turns[1].seconds


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What it takes to have one claim judged.

    Attributes:
        tokens_in: Tokens that the model reads.
        tokens_out: Tokens that it writes.
        searches: Searches.
    """

    tokens_in: float
    tokens_out: float = 0.0
    searches: float = 0.0

    def dollars(self, prices: tuple[float, float]) -> float:
        """At prices per million tokens in and out.

        >>> Cost(tokens_in=1000, tokens_out=100, searches=1).dollars((1.0, 10.0))
        0.012
        """
        return (self.tokens_in * prices[0] + self.tokens_out * prices[1]) / 1e6 + self.searches * SEARCH_PRICE


def answers_with_claims() -> list[Said]:
    """Answers of several claims each: all that there is to say of some people of the lab."""
    people = build_world().people[:ANSWERS]
    texts = [" " + " ".join(person.claim(attribute.name) for attribute in PERSON_ATTRIBUTES) for person in people]
    return [
        Said(prompt=({"role": "user", "content": f"who is {person.name}?"},), answer=text, claims=claims)
        for person, text, claims in zip(people, texts, rule_claims(texts), strict=True)
    ]


def judge_prompts(host: Host, said: Sequence[Said]) -> list[list[int]]:
    """A question about each claim, as short as it can be, which is to the judge's advantage."""
    asked = [
        f"{one.prompt[-1]['content']}{one.answer[: claim.end]} is that right?" for one in said for claim in one.claims
    ]
    return [encode_prompt(host.tokenizer, [Message(role="user", content=text)]) for text in asked]


def verdicts(host: Host, prompts: Sequence[Sequence[int]], tokens: int) -> torch.Tensor:
    """Exactly so many new tokens for each prompt, all prompts in one batch, greedily."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=host.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=host.device)
    run = cast("Any", host.model).generate
    with torch.no_grad():
        out = run(
            input_ids=ids,
            attention_mask=mask,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
        )
    new = cast("torch.Tensor", out)[:, width:]
    if new.shape != (len(prompts), tokens):
        raise AssertionError(f"verdicts of shape {tuple(new.shape)}")
    return new


def claim_costs(host: Host) -> list[Ratio]:
    """Reading all claims of some answers against asking the same model about each claim; and what both would cost."""
    said, reader = answers_with_claims(), random_reader(host)
    claims = sum(len(one.claims) for one in said)
    prompts = judge_prompts(host, said)
    placer = Placer(host.tokenizer, max_length=context_length(host))
    read = Cost(tokens_in=sum(len(placer(part).input_ids) for one in said for part in plain(one)) / claims)
    asked = sum(map(len, prompts)) / claims
    clock = cpu_seconds if host.device.type == "cpu" else seconds
    found: list[Ratio] = []
    reading: list[float] = []
    rows: list[tuple[str, Cost, float | None]] = []
    for tokens in VERDICTS:
        mine, theirs = _in_turns(partial(reader, said), partial(verdicts, host, prompts, tokens), clock)
        reading += mine
        found += [
            of_turns(
                f"reading claims, {host.name}: judge of {tokens} tokens",
                [a / b for a, b in zip(mine, theirs, strict=True)],
                target=1 / 50,
                unit=f"of the time of the same model as a judge; {len(said)} answers of {claims // len(said)} claims",
            ),
            _milliseconds(f"judge of {tokens} tokens, {host.name}", theirs, claims),
        ]
        cost = Cost(tokens_in=asked, tokens_out=tokens)
        rows.append((f"judge, {tokens} tokens", cost, statistics.median(theirs) / claims))
    rows.insert(0, ("reading", read, statistics.median(reading) / claims))
    searched = Cost(tokens_in=asked + FOUND_TOKENS, tokens_out=VERDICTS[-1], searches=1)
    rows.append((f"judge with search, {VERDICTS[-1]} tokens", searched, None))
    _print(host.name, rows)
    found.append(_milliseconds(f"reading claims, {host.name}", reading, claims))
    return [*found, *_priced(host.name, rows)]


def _in_turns(
    ours: Callable[[], object], theirs: Callable[[], object], clock: Callable[[Callable[[], object]], float]
) -> tuple[list[float], list[float]]:
    """Seconds of both, in turns; ours several times in a turn, as it is short."""
    mine: list[float] = []
    judged: list[float] = []
    ours()
    for turn in range(TURNS):
        if turn % 2:
            judged.append(clock(theirs))
        mine.append(statistics.fmean(clock(ours) for _ in range(REPEATS)))
        if not turn % 2:
            judged.append(clock(theirs))
    return mine, judged


def _milliseconds(name: str, times: Sequence[float], claims: int) -> Ratio:
    found = [1000 * time / claims for time in times]
    return of_turns(f"{name}: time", found, target=None, unit="milliseconds per claim")


def _priced(name: str, rows: Sequence[tuple[str, Cost, float | None]]) -> list[Ratio]:
    """The table at the assumed prices, for ``results.json``."""
    found: list[Ratio] = []
    for title, cost, _ in rows:
        for size, prices in (("small", SMALL_MODEL), ("large", LARGE_MODEL)):
            unit = (
                f"US dollars per 1,000 claims at assumed prices: {prices[0]:g} and {prices[1]:g} per million tokens in "
                f"and out, {SEARCH_PRICE:g} per search; {cost.tokens_in:.0f} tokens in, {cost.tokens_out:.0f} out"
            )
            price = 1000 * cost.dollars(prices)
            found.append(of_turns(f"price, {name}, {size} model: {title}", [price], target=None, unit=unit))
    return found


def _print(name: str, rows: Sequence[tuple[str, Cost, float | None]]) -> None:
    """The same as a table in Markdown."""
    print(f"\n| one claim, {name} | tokens in | out | searches | ms | $ per 1,000, small model | large model |")
    print("|---|---|---|---|---|---|---|")
    for title, cost, time_ in rows:
        dollars = " | ".join(f"{1000 * cost.dollars(prices):.4f}" for prices in (SMALL_MODEL, LARGE_MODEL))
        spent = "" if time_ is None else f"{1000 * time_:.2f}"
        print(f"| {title} | {cost.tokens_in:.0f} | {cost.tokens_out:.0f} | {cost.searches:.0f} | {spent} | {dollars} |")
    print()
