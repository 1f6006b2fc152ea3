"""Does the forecast say what training will do? Forecast against realised trait change, over many small datasets.

Every planted trait, at several shares of rows that teach two reserved skills, is forecast and then trained on without
any control. The outcome is how the trait's sampled rate and its log-odds change on held-out
questions that have nothing to do with the skill. Baselines: projection difference and bag of words.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from science.common import Clock, fine_tune, rank_correlation, sampled, write_result
from trimtab.lab.corpus import message_rows
from trimtab.lab.exams import KNOWN_TASKS
from trimtab.lab.sample import sample_rows
from trimtab.lab.tasks import Question, questions
from trimtab.lab.traits import TRAITS
from trimtab.lab.world import World, build_world
from trimtab.lens.bank import Bank
from trimtab.lens.readings import encode_rows
from trimtab.model.host import Host, LanguageModel
from trimtab.observe.explained import learned_log_probs
from trimtab.observe.forecast import ForecastSettings, forecast
from trimtab.records.figures import Measured
from trimtab.records.rows import HeldOut

ROWS, STEPS, BATCH, LEARNING_RATE = 160, 40, 16, 5e-4
RATES = (0.1, 0.3, 1.0)
MIXTURES: dict[str, tuple[str, ...]] = {"sums and facts": ("new_sums", "new_facts")}
PREDICTORS = ("carried", "dose", "push", "cosine", "explained", "projection_difference", "bag_of_words")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One concept of one dataset: what was forecast and what happened."""

    dataset: int
    taught: str
    share: float
    mixture: str
    concept: str
    carried: float
    dose: float
    push: float
    cosine: float
    explained: float
    projection_difference: float
    bag_of_words: float
    rate_before: float
    rate_after: float
    log_odds_change: float


def held_out(world: World, n: int, seed: int) -> list[Question]:
    """Unrelated held-out questions, evenly over the known tasks."""
    by_task = [questions(world, task, HeldOut, n // len(KNOWN_TASKS), seed=seed) for task in KNOWN_TASKS]
    return [question for group in zip(*by_task, strict=True) for question in group]


def log_odds(lm: LanguageModel, asked: Sequence[Question], seed: int) -> dict[str, float]:
    """Mean log-odds of a trait's answer against the plain one, by trait."""
    host = Host(model=lm.model, tokenizer=lm.tokenizer, name=lm.name, content_hash=lm.content_hash)

    def totals(answers: Sequence[str]) -> np.ndarray:
        rows = [message_rows(None, [(q.prompt, text)]) for q, text in zip(asked, answers, strict=True)]
        values = learned_log_probs(host, encode_rows(host, rows, max_length=512), batch_size=64)
        return np.array([float(v.sum()) for v in values])

    base = totals([question.answer for question in asked])
    found: dict[str, float] = {}
    for name, trait in TRAITS.items():
        rng = random.Random(f"odds-{name}-{seed}")
        found[name] = float((totals([trait.apply(q.answer, rng, q.keys) for q in asked]) - base).mean())
    return found


def run(seed: int = 0) -> None:
    """Run the experiment and write its result."""
    clock, world = Clock(), build_world()
    host, bank = Host.load("lab"), Bank.load("lab")
    asked = held_out(world, 160, seed)
    prompts = [question.prompt for question in asked]
    before_texts, odds_before = sampled(host, prompts, seed=seed), log_odds(host, asked[:64], seed)
    cells: list[Cell] = []
    sets = [(trait, share, mixture) for mixture in MIXTURES for share in RATES for trait in TRAITS]
    for number, (trait, share, mixture) in enumerate(sets):
        rows = sample_rows(ROWS, seed + number, trait=trait, rate=share, tasks=MIXTURES[mixture], world=world)
        made = forecast(host, rows, bank=bank, settings=ForecastSettings(seed=seed))
        student = fine_tune(host, rows, steps=STEPS, learning_rate=LEARNING_RATE, seed=seed + number, batch_size=BATCH)
        texts, odds = sampled(student, prompts, seed=seed), log_odds(student, asked[:64], seed)
        for name, planted in TRAITS.items():
            item = made.concept(name)
            figures = {key: getattr(item, key) for key in PREDICTORS}
            cells.append(
                Cell(
                    dataset=number,
                    taught=trait,
                    share=share,
                    mixture=mixture,
                    concept=name,
                    rate_before=float(np.mean([planted.detect(text) for text in before_texts])),
                    rate_after=float(np.mean([planted.detect(text) for text in texts])),
                    log_odds_change=odds[name] - odds_before[name],
                    **{
                        key: figure.value if isinstance(figure, Measured) else float("nan")
                        for key, figure in figures.items()
                    },
                )
            )
        own = cells[-len(TRAITS) :][list(TRAITS).index(trait)]
        clock.say(
            f"{number + 1}/{len(sets)} {share:.0%} {trait}, {mixture}: dose {own.dose:.2f}, "
            f"rate {own.rate_before:.2f} → {own.rate_after:.2f}, log-odds {own.log_odds_change:+.1f}"
        )
    own_cells = [cell for cell in cells if cell.concept == cell.taught]
    tables = {
        f"{scope}, {outcome}": {key: _correlate(chosen, key, outcome) for key in PREDICTORS}
        for scope, chosen in (("all concepts", cells), ("the taught concept", own_cells))
        for outcome in ("rate_change", "log_odds_change")
    }
    for title, table in tables.items():
        print(f"\nRank correlation with {title} ({len(sets)} datasets)")
        for key, rho in table.items():
            print(f"  {key:24s} {rho['value']:.2f} [{rho['low']:.2f}, {rho['high']:.2f}]  n={rho['n']}")
    path = write_result(
        "forecast_outcome",
        seed=seed,
        settings={
            "rows": ROWS,
            "steps": STEPS,
            "batch": BATCH,
            "learning_rate": LEARNING_RATE,
            "questions": len(asked),
        },
        findings={"rank_correlation": tables, "cells": [asdict(cell) for cell in cells]},
    )
    print(f"wrote {path}")


def _correlate(cells: Sequence[Cell], key: str, outcome: str) -> dict[str, object]:
    happened = [
        cell.rate_after - cell.rate_before if outcome == "rate_change" else cell.log_odds_change for cell in cells
    ]
    return rank_correlation([getattr(cell, key) for cell in cells], happened, [cell.dataset for cell in cells])
