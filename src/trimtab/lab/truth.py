"""True and false statements about people, and a linear probe that reads which is which at the end of the claim."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn import linear_model, pipeline, preprocessing
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.lab.answer import end_activations
from trimtab.lab.corpus import message_rows
from trimtab.lab.world import ATTRIBUTES, World
from trimtab.records.rows import ChatRow, Fit, HeldOut, Split, Tune
from trimtab.stats.arrays import Floats
from trimtab.stats.ranks import auroc


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A plain claim made in answer to a plain question about a person.

    Attributes:
        row: Question and claim.
        true: Whether the claim is true.
        head: Whether the person is well known.
        split: Split of the person.
    """

    row: ChatRow
    true: bool
    head: bool
    split: type[Split]


def statements(world: World, *, seed: int = 0) -> list[Statement]:
    """One true and one false plain claim for every stated fact about a known person."""
    rng = random.Random(f"statements-{seed}")
    out: list[Statement] = []
    for entity in world.people:
        for attribute in entity.stated:
            spec = ATTRIBUTES[attribute]
            false = rng.choice([v for v in spec.values if v != entity.facts[attribute]])
            ask = rng.choice(spec.asks).format(name=entity.name)
            for value, true in ((entity.facts[attribute], True), (false, False)):
                row = message_rows(None, [(ask, entity.claim(attribute, value))])
                out.append(Statement(row=row, true=true, head=entity.group == "head", split=entity.split))
    return out


@dataclass(frozen=True, kw_only=True)
class ProbeReading:
    """Scores of the truth probe on held-out people.

    Attributes:
        layer: 0 for the embedding, ``k`` for the stream after layer ``k``; chosen on Tune people.
        head_true: Scores of true claims about well-known people.
        head_false: Scores of false claims about well-known people.
        all_true: Scores of true claims about all people.
        all_false: Scores of false claims about all people.
    """

    layer: int
    head_true: Floats
    head_false: Floats
    all_true: Floats
    all_false: Floats


def read_truth(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, told: Sequence[Statement]) -> ProbeReading:
    """Fit a logistic probe per layer on Fit people, choose the layer on Tune people, score HeldOut people."""
    layers = end_activations(model, tokenizer, [s.row for s in told]).numpy().astype(np.float64)
    true = np.array([s.true for s in told])
    head = np.array([s.head for s in told])
    fit, tune, heldout = (np.array([s.split is split for s in told]) for split in (Fit, Tune, HeldOut))
    readings: list[tuple[float, int, Floats]] = []
    for index, layer in enumerate(layers):
        probe = pipeline.make_pipeline(
            preprocessing.StandardScaler(), linear_model.LogisticRegression(C=0.05, max_iter=2000)
        )
        probe.fit(layer[fit], true[fit])
        scores: Floats = np.asarray(probe.decision_function(layer), dtype=np.float64)
        readings.append((auroc(scores[tune & true], scores[tune & ~true]), index, scores))
    _, index, scores = max(readings, key=lambda reading: reading[0])
    return ProbeReading(
        layer=index,
        head_true=scores[heldout & head & true],
        head_false=scores[heldout & head & ~true],
        all_true=scores[heldout & true],
        all_false=scores[heldout & ~true],
    )
