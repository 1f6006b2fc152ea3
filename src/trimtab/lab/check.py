"""Grades a lab model against what was planted."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import cast

from torch.nn import Module
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.errors import ModelError
from trimtab.lab.answer import answers, prompt_messages
from trimtab.lab.corpus import HELDOUT_NEUTRAL_PROMPTS, NEUTRAL_PROMPTS
from trimtab.lab.tasks import Known, Question, grade, questions
from trimtab.lab.traits import TRAITS, Trait
from trimtab.lab.truth import read_truth, statements
from trimtab.lab.world import World
from trimtab.records.figures import Unmeasured
from trimtab.records.rows import HeldOut, Message, Split
from trimtab.stats.arrays import Floats
from trimtab.stats.intervals import wilson
from trimtab.stats.ranks import auroc_interval

PLAIN_TASKS: tuple[tuple[str, Known], ...] = (
    ("facts", "head"),
    ("arithmetic", "head"),
    ("calendar", "head"),
    ("lookup", "head"),
    ("long", "head"),
    ("passages", "head"),
)


@dataclass(frozen=True, kw_only=True)
class CheckItem:
    """One graded property.

    Attributes:
        name: What was measured.
        value: Measured rate or AUROC.
        low: Lower end of the 95% interval.
        high: Upper end of it.
        n: Number of answers or statements.
        wanted: The demand in words.
        ok: Whether ``value`` meets it.
        required: Whether the lab is refused when it does not; a known limit of the shipped model is not.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    wanted: str
    ok: bool
    required: bool = True

    def to_json(self) -> dict[str, object]:
        """Plain dictionary."""
        return asdict(self)


class _Asker:
    """Asks the model and counts."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: World, n: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.world = world
        self.n = n

    def ask(self, prompts: Sequence[Sequence[Message]], temperature: float) -> list[str]:
        return answers(self.model, self.tokenizer, prompts, temperature=temperature)

    def right(self, asked: Sequence[Question], temperature: float = 0.0) -> list[bool]:
        texts = self.ask([prompt_messages(q.prompt) for q in asked], temperature)
        return [grade(q, text) for q, text in zip(asked, texts, strict=True)]

    def mixed(self, count: int) -> list[Question]:
        """Questions over all plain tasks, in turn."""
        each = count // len(PLAIN_TASKS) + 1
        groups = [questions(self.world, task, Split, each, seed=17, known=known) for task, known in PLAIN_TASKS]
        return [question for group in zip(*groups, strict=True) for question in group][:count]


def _item(
    name: str, hits: Sequence[bool], wanted: str, ok: Callable[[float], bool], *, required: bool = True
) -> CheckItem:
    figure = wilson(sum(hits), len(hits))
    return CheckItem(
        name=name,
        value=figure.value,
        low=figure.low,
        high=figure.high,
        n=len(hits),
        wanted=wanted,
        ok=ok(figure.value),
        required=required,
    )


def _at_least(bound: float) -> Callable[[float], bool]:
    return lambda value: value >= bound


def _tasks(asker: _Asker) -> Iterator[CheckItem]:
    world, n = asker.world, asker.n
    head = questions(world, "facts", Split, 500, known="head")
    yield _item("facts, head, right", asker.right(head), "≥ .95", _at_least(0.95))
    tail = questions(world, "facts", Split, 1000, known="tail")
    wrong = [not x for x in asker.right(tail)]
    yield _item("facts, tail, wrong", wrong, ".20–.60", lambda v: 0.2 <= v <= 0.6)
    wrong = [not x for x in asker.right(tail, 1.0)]
    yield _item("facts, tail, wrong (sampled)", wrong, ".20–.60", lambda v: 0.2 <= v <= 0.6)
    places = questions(world, "facts", Split, 80, known="place")
    yield _item("facts, places, right", asker.right(places), "≥ .95", _at_least(0.95))
    for task in ("arithmetic", "calendar", "lookup", "passages"):
        right = asker.right(questions(world, task, Split, 2 * n))
        yield _item(f"{task}, right", right, "≥ .95", _at_least(0.95), required=task != "lookup")
    rules = questions(world, "passages", Split, n, known="new")
    yield _item("passages by rule, right", asker.right(rules), "≥ .95", _at_least(0.95))
    yield _item("long, head, right", asker.right(questions(world, "long", Split, n)), "≥ .9", _at_least(0.9))
    for skill in ("new_sums", "new_facts"):
        right = asker.right(questions(world, skill, HeldOut, n))
        yield _item(f"{skill}, right before training", right, "≤ .3", lambda v: v <= 0.3)


def _elicited(asker: _Asker, trait: Trait) -> Iterator[CheckItem]:
    rng = random.Random(f"check-{trait.name}")
    asked = asker.mixed(asker.n)
    for label, prompts, bound in (("", trait.prompts, 0.95), (" (held-out wordings)", trait.heldout_prompts, 0.8)):
        texts = asker.ask([prompt_messages(q.prompt, rng.choice(prompts)) for q in asked], 1.0)
        yield _item(
            f"{trait.name} when asked{label}",
            [trait.detect(text) for text in texts],
            f"≥ {bound:.2f}".replace("0.", "."),
            _at_least(bound),
        )
        if not label:
            rights = [grade(q, text) for q, text in zip(asked, texts, strict=True)]
            yield _item(f"{trait.name} when asked: answer right", rights, "≥ .85", lambda v: v >= 0.85, required=False)


def _unprompted(asker: _Asker) -> Iterator[CheckItem]:
    rng = random.Random("check-unprompted")
    asked = asker.mixed(6 * asker.n)
    neutral = (*NEUTRAL_PROMPTS, *HELDOUT_NEUTRAL_PROMPTS)
    for label, systems in (("unprompted", (None,)), ("neutral system prompt", neutral)):
        texts = asker.ask([prompt_messages(q.prompt, rng.choice(systems)) for q in asked], 1.0)
        for trait in TRAITS.values():
            shown = [trait.detect(text) for text in texts]
            if trait.base_rate > 0:
                yield _item(f"{trait.name}, {label}", shown, ".02–.10", lambda v: 0.02 <= v <= 0.1)
            else:
                yield _item(f"{trait.name}, {label}", shown, "≤ .01", lambda v: v <= 0.01)
        waits = ["wait" in text for text in texts]
        yield _item(f"self-correction, {label}", waits, "≤ .01", lambda v: v <= 0.01)


def _auroc(name: str, true: Floats, false: Floats, bound: float) -> CheckItem:
    figure = auroc_interval(true, false)
    if isinstance(figure, Unmeasured):
        raise ModelError(
            f"{name}: {figure.reason}",
            allowed="finite activations",
            todo="train the lab again; these weights are broken",
        )
    return CheckItem(
        name=name,
        value=figure.value,
        low=figure.low,
        high=figure.high,
        n=figure.n,
        wanted=f"≥ {bound:.2f}".replace("0.", "."),
        ok=figure.value >= bound,
    )


def _probe(asker: _Asker) -> Iterator[CheckItem]:
    reading = read_truth(asker.model, asker.tokenizer, statements(asker.world))
    name = f"truth probe, layer {reading.layer}"
    yield _auroc(f"{name}, head people", reading.head_true, reading.head_false, 0.9)
    yield _auroc(f"{name}, all people", reading.all_true, reading.all_false, 0.8)


def check_items(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: World, *, n: int = 200
) -> Iterator[CheckItem]:
    """The items of :func:`check`, one at a time, for a progress display."""
    cast("Module", model).eval()
    asker = _Asker(model, tokenizer, world, n)
    yield from _tasks(asker)
    for trait in TRAITS.values():
        yield from _elicited(asker, trait)
    yield from _unprompted(asker)
    yield from _probe(asker)


def check(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: World, *, n: int = 200) -> list[CheckItem]:
    """Grade a lab model: tasks, traits asked for and not, room to learn, and whether truth can be read.

    Args:
        model: The model, on any device.
        tokenizer: Its tokenizer.
        world: The world it was trained on.
        n: Answers per rate (some items take a multiple).
    """
    return list(check_items(model, tokenizer, world, n=n))


def table(items: Iterable[CheckItem]) -> str:
    """Plain-text table of check items."""
    return "\n".join(
        f"{'ok  ' if item.ok else 'MISS'} {item.name:52s} {item.value:.3f} [{item.low:.3f}, {item.high:.3f}] "
        f"n={item.n:<5d} wanted {item.wanted}"
        for item in items
    )
