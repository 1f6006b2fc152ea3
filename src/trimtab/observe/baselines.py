"""The simple baselines that stand beside every forecast: projection difference and bag of words.

Both compare the data's answers with the answers that the host itself gives to the same prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trimtab.lens.bank import Bank
from trimtab.lens.extract import answer_texts
from trimtab.lens.readings import Readings, encode_rows, read_rows
from trimtab.lens.words import read_words
from trimtab.model.generate import generate
from trimtab.model.host import Host
from trimtab.records.figures import Figure
from trimtab.records.rows import ChatRow, Message
from trimtab.records.site import Site
from trimtab.stats import mean_interval


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """Baseline figures in bank order.

    Attributes:
        projection_difference: 2507.21509: mean of ``<a(x, data) - a(x, host), d>``, in units of the concept's gap.
        bag_of_words: Mean difference of the word classifier's log-odds.
    """

    projection_difference: tuple[Figure, ...]
    bag_of_words: tuple[Figure, ...]


def own_answers(
    host: Host, rows: Sequence[ChatRow], *, limit: int, max_new_tokens: int, seed: int
) -> tuple[list[int], list[ChatRow]]:
    """The host's own answers to the prompts of up to ``limit`` rows, evenly spaced; empty answers are left out.

    Returns:
        Places of the rows answered, and the rows with the last answer replaced.
    """
    count = min(limit, len(rows))
    places = [i * len(rows) // count for i in range(count)]
    prompts = [rows[i]["messages"][:-1] for i in places]
    texts = generate(host, prompts, max_new_tokens=max_new_tokens, temperature=1.0, seed=seed)
    kept: list[int] = []
    answered: list[ChatRow] = []
    for place, prompt, text in zip(places, prompts, texts, strict=True):
        if text.strip():
            answer: Message = {"role": "assistant", "content": text}
            kept.append(place)
            answered.append({"messages": [*prompt, answer]})
    return kept, answered


def baselines(
    host: Host,
    rows: Sequence[ChatRow],
    readings: Readings,
    bank: Bank,
    site: Site,
    *,
    limit: int = 256,
    max_new_tokens: int = 48,
    max_length: int = 4096,
    seed: int = 0,
) -> Baselines:
    """Both baselines for every concept of a bank.

    Args:
        host: The frozen host.
        rows: The dataset.
        readings: The dataset as read at ``site``.
        bank: The host's bank.
        site: Where to read.
        limit: Rows that the host answers itself.
        max_new_tokens: Longest answer of the host.
        max_length: Longest conversation in tokens.
        seed: Seed of the host's answers.
    """
    places, answered = own_answers(host, rows, limit=limit, max_new_tokens=max_new_tokens, seed=seed)
    own = read_rows(host, encode_rows(host, answered, max_length=max_length), [site], gradients=False)
    difference = readings.activations[site][places] - own.activations[site]
    projections: list[Figure] = []
    word_odds: list[Figure] = []
    data_texts, own_texts = answer_texts([rows[i] for i in places]), answer_texts(answered)
    for concept in bank.concepts:
        along = difference @ concept.directions[site] / concept.card.gaps[str(site)]
        projections.append(mean_interval(along.to(torch.float64).numpy()))
        weights = concept.card.word_weights
        odds = [read_words(weights, a) - read_words(weights, b) for a, b in zip(data_texts, own_texts, strict=True)]
        word_odds.append(mean_interval(odds))
    return Baselines(projection_difference=tuple(projections), bag_of_words=tuple(word_odds))
