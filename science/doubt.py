"""Where to doubt: how much of what the frozen host reads does a student learn, and what decides it?

A host's reading of claims is put into a student the simplest way: after every plain claim of the host's own sampled
answers, the student is to say the first word of a hedge as likely as the reading calls the claim wrong (binary
cross-entropy), and nothing else is to change (KL to the host at every other token). It is then judged on people whom
neither probe nor student has met: does it find its hedge likelier after wrong claims than after right ones (AUROC)? The
arms differ in what is free to learn, and in whether people are asked about of whom no text says anything.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Final, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from science.common import Clock, plain, write_result
from trimtab.data.template import encode_prompt, words_after
from trimtab.lab.claim_questions import claim_questions, stranger_questions
from trimtab.lab.world import build_world
from trimtab.loop.claim_demo import demo_settings
from trimtab.loop.claim_run import probe_step, sampled
from trimtab.loop.claim_task import ClaimTask, claim_task
from trimtab.model.host import Host
from trimtab.records.claims import ClaimQuestion
from trimtab.records.config import TrainSettings
from trimtab.records.rows import Fit, HeldOut
from trimtab.reward.reading import ClaimProbe, ClaimReader
from trimtab.roles import Reader
from trimtab.stats.classify import discrimination
from trimtab.train.student import freeze_first, make_student

FOLDER: Final = Path("runs/doubt")
HEDGE: Final = " please check that."
QUESTIONS, STRANGERS, HELD_OUT = 900, 450, 480
STEPS, BATCH, WARM_UP, KL = 160, 48, 10, 0.5
SEEDS: Final = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is free to learn, how fast, and whether strangers are asked about."""

    frozen: int = 0
    rank: int = 0
    learning_rate: float = 1e-3
    strangers: bool = False


ARMS: Final[Mapping[str, Arm]] = {
    "last two layers": Arm(frozen=2),
    "every layer": Arm(),
    "LoRA of rank 32": Arm(rank=32, learning_rate=2e-3),
    "every layer, strangers too": Arm(strangers=True),
    "LoRA of rank 32, strangers too": Arm(rank=32, learning_rate=2e-3, strangers=True),
}


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A plain claim: the place of its last token, P(right) as the host reads it, whether it is right, and of whom."""

    place: int
    read: float
    right: bool | None
    about: str


@dataclass(frozen=True, kw_only=True)
class Example:
    """An answer of the host: tokens of prompt and answer, where the answer begins, and its plain claims."""

    ids: list[int]
    start: int
    marks: tuple[Mark, ...]


def examples(
    host: Host, reader: Reader, task: ClaimTask, questions: Sequence[ClaimQuestion], seed: int
) -> list[Example]:
    """The host's sampled answers, read and graded."""
    said = sampled(host, questions, demo_settings(), task.splitter, seed=seed)
    found: list[Example] = []
    for question, one, readings in zip(questions, said, reader(said), strict=True):
        prompt = encode_prompt(host.tokenizer, one.prompt)
        marks: list[Mark] = []
        for claim, read, grade in zip(one.claims, readings, task.grader(one.asked), strict=True):
            if claim.stance == "asserted":
                place = len(prompt) + len(tokens(host, one.answer[: claim.end])) - 1
                right = None if grade.truth == "unknown" else grade.truth == "right"
                marks.append(Mark(place=place, read=read, right=right, about=question.about))
        found.append(Example(ids=[*prompt, *tokens(host, one.answer)], start=len(prompt), marks=tuple(marks)))
    return found


def tokens(host: Host, text: str) -> list[int]:
    """Of an answer."""
    return cast("list[int]", host.tokenizer.encode(text, add_special_tokens=False))


def log_probabilities(model: nn.Module, batch: Sequence[Example]) -> Tensor:
    """Of the next token everywhere, ``[example, place, token]``; short rows are padded behind."""
    longest = max(len(one.ids) for one in batch)
    ids = torch.tensor([[*one.ids, *(0 for _ in range(longest - len(one.ids)))] for one in batch])
    mask = torch.tensor([[int(place < len(one.ids)) for place in range(longest)] for one in batch])
    return torch.log_softmax(model(input_ids=ids, attention_mask=mask).logits.float(), -1)


def loss_of(student: nn.Module, host: Host, batch: Sequence[Example], hedge: int) -> Tensor:
    """Cross-entropy of hedging with what the host reads, and KL to the host elsewhere in the answers."""
    mine = log_probabilities(student, batch)
    with torch.no_grad():
        hosts = log_probabilities(host.model, batch)
    elsewhere = torch.zeros(mine.shape[:2])
    where: list[tuple[int, int]] = []
    wanted: list[float] = []
    for row, one in enumerate(batch):
        elsewhere[row, one.start - 1 : len(one.ids)] = 1.0
        for mark in one.marks:
            elsewhere[row, mark.place] = 0.0
            where.append((row, mark.place))
            wanted.append(min(max(1 - mark.read, 0.01), 0.99))
    kl = ((hosts.exp() * (hosts - mine)).sum(-1) * elsewhere).sum() / elsewhere.sum()
    if not where:
        return KL * kl
    rows, places = zip(*where, strict=True)
    said = mine[list(rows), list(places), hedge]
    doubt = torch.tensor(wanted)
    unsaid = torch.log1p(-said.exp().clamp(max=1 - 1e-6))
    return KL * kl - (doubt * said + (1 - doubt) * unsaid).mean()


def trained(host: Host, arm: Arm, data: Sequence[Example], hedge: int, seed: int) -> nn.Module:
    """A student that was told what the host reads."""
    settings = TrainSettings(method="lora" if arm.rank else "full", lora_r=arm.rank or 1, lora_alpha=2 * arm.rank or 1)
    student = make_student(host, settings, seed=seed)
    if arm.frozen:
        freeze_first(cast("PreTrainedModel", student), arm.frozen)
    learned = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=arm.learning_rate, weight_decay=0.0)
    rng = random.Random(f"doubt {seed}")
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = arm.learning_rate * min(1, (step + 1) / WARM_UP) * (1 - step / STEPS)
        loss = loss_of(student, host, rng.choices(data, k=BATCH), hedge)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    student.requires_grad_(False)
    return student


def doubts(student: nn.Module, data: Sequence[Example], hedge: int) -> list[float]:
    """How likely the student is to hedge each claim whose truth is known."""
    found: list[float] = []
    with torch.no_grad():
        for first in range(0, len(data), 128):
            batch = data[first : first + 128]
            said = log_probabilities(student, batch)[..., hedge]
            found += [
                float(said[row, mark.place])
                for row, one in enumerate(batch)
                for mark in one.marks
                if mark.right is not None
            ]
    return found


def run(*, seeds: Sequence[int] = SEEDS) -> None:
    """Train every arm under every seed and write ``results/doubt.json``."""
    clock, world, host, settings = Clock(), build_world(), Host.load("lab"), demo_settings()
    task = claim_task(settings)
    FOLDER.mkdir(parents=True, exist_ok=True)
    probe_step(settings, FOLDER, host, lambda *_: None)
    reader = ClaimReader(host, ClaimProbe.load(FOLDER / "probe"))
    hedge = words_after(host.tokenizer, HEDGE)[0]
    known = claim_questions(world, Fit, QUESTIONS, part="train")
    people = [*examples(host, reader, task, known, 0), *examples(host, reader, task, known, 1)]
    strangers = examples(host, reader, task, stranger_questions(world, STRANGERS), 2)
    judged = examples(host, reader, task, claim_questions(world, HeldOut, HELD_OUT), 3)
    marks = [mark for one in judged for mark in one.marks if mark.right is not None]
    wrong, groups = [not mark.right for mark in marks], [mark.about for mark in marks]
    clock.say(f"{len(people)} answers about people, {len(strangers)} about strangers, {len(marks)} held-out claims")
    hosts = discrimination([1 - mark.read for mark in marks], wrong, groups).auroc
    clock.say(f"the host's reading: {hosts}")
    rows: list[dict[str, object]] = []
    for name, arm in ARMS.items():
        for seed in seeds:
            data = [*people, *strangers] if arm.strangers else people
            student = trained(host, arm, data, hedge, seed)
            figure = discrimination(doubts(student, judged, hedge), wrong, groups).auroc
            rows.append({"arm": name, "seed": seed, **plain(figure)})
            clock.say(f"{name}, seed {seed}: {figure}")
    for name in ARMS:
        values = [cast("float", row["value"]) for row in rows if row["arm"] == name]
        print(f"{name:<34} {fmean(values):.3f} ({min(values):.3f}-{max(values):.3f})")
    write_result(
        "doubt",
        seed=seeds[0],
        settings={"steps": STEPS, "batch": BATCH, "kl": KL, "questions": QUESTIONS, "strangers": STRANGERS},
        findings={"host": plain(hosts), "rows": rows},
    )
