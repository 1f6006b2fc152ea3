"""What is said of a cluster: telling words, the strongest rows, and the token on which most of it fires."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from trimtab.lens.labels.windows import TokenRows
from trimtab.lens.sae.cluster_lens import ClusterLens
from trimtab.lens.sae.cluster_view import MOST_ROWS, MOST_WORDS, RowWords, view_cluster
from trimtab.lens.sae.clusters import Cluster
from trimtab.lens.spans import Spans, spans_of
from trimtab.records.figures import Measured
from trimtab.records.lens import LensCard
from trimtab.records.site import Site
from trimtab.stats import fisher_exact


def rows_of(texts: list[str]) -> TokenRows:
    """One token per word, all of them read."""
    tokens = [[f" {word}" for word in text.split()] for text in texts]
    return TokenRows(
        texts=tuple(token for row in tokens for token in row),
        offsets=np.cumsum([0, *map(len, tokens)]),
        control=np.zeros(sum(map(len, tokens)), dtype=np.bool_),
        read=np.ones(sum(map(len, tokens)), dtype=np.bool_),
        sources=tuple(range(len(texts))),
    )


def test_words_that_mark_the_rows_come_first_and_words_of_all_rows_not_at_all() -> None:
    texts = ["the Arr sea", "the arr sky"] * 20 + ["the plain sea", "the plain sky"] * 20
    fires = np.array([True] * 40 + [False] * 40)
    assert RowWords(rows_of(texts)).telling(fires) == ("arr",)
    assert RowWords(rows_of(texts)).telling(~fires) == ("plain",)


def test_chance_names_no_word_among_many() -> None:
    rng = np.random.default_rng(0)
    said = rng.random((200, 3000)) < 0.3
    rows = rows_of([" ".join(f"w{n}" for n in np.flatnonzero(row)) for row in said])
    words = RowWords(rows)
    fires = rng.random(200) < 0.5
    assert words.telling(fires) == ()
    one_by_one = [
        fisher_exact(int(word[fires].sum()), int(fires.sum()), int(word[~fires].sum()), int((~fires).sum()))
        for word in said.T[:1500]
    ]
    assert min(one_by_one) < 0.005  # looked at one by one, some would have been named
    assert words.telling(np.ones(200, dtype=np.bool_)) == ()


def test_only_so_many_words_the_rarest_elsewhere_first() -> None:
    inside = [" ".join(f"w{n}" for n in range(10))] * 30
    outside = [" ".join(f"w{n}" for n in range(10) if row < 3 * n) for row in range(30)]
    found = RowWords(rows_of([*inside, *(text or "nothing" for text in outside)])).telling(np.arange(60) < 30)
    assert found == tuple(f"w{n}" for n in range(MOST_WORDS))


def test_what_is_not_read_and_control_tokens_are_no_words() -> None:
    rows = rows_of(["asked arr", "asked matey"] * 20 + ["asked plain"] * 40)
    fires = np.arange(80) < 40
    assert set(RowWords(rows).telling(fires)) == {"arr", "matey"}
    hidden = np.array([token == " arr" for token in rows.texts])
    assert RowWords(replace(rows, read=~hidden)).telling(fires) == ("matey",)
    assert RowWords(replace(rows, control=hidden)).telling(fires) == ("matey",)


CLUSTER = Cluster(features=(4, 2), centrality=(3.0, 1.0), rows=0.5)


def lens_and_spans(rows: TokenRows) -> tuple[ClusterLens, Spans]:
    """Feature 4 fires on tokens that say ``arr``, feature 2 on those that say ``ye``."""
    said = torch.tensor([[float(token == " arr"), float(token == " ye")] for token in rows.texts])
    lens = ClusterLens(
        card=LensCard(
            concept="voice",
            meaning="a voice",
            kind="cluster",
            site=Site(1),
            pooling="max",
            model="tiny",
            model_hash="0" * 64,
        ),
        features=CLUSTER.features,
        weights=torch.tensor([0.75, 0.25]),
        encoder=torch.eye(2),
        bias=torch.zeros(2),
        threshold=torch.zeros(2),
    )
    return lens, spans_of(list(said.split(np.diff(rows.offsets).tolist())))


def test_a_cluster_is_shown_by_its_strongest_rows() -> None:
    texts = ["plain talk", "now arr", "ye only", "ye say arr", "ye say arr", "arr and ye", "so arr", "well ye"]
    rows = rows_of(texts)
    lens, spans = lens_and_spans(rows)
    lines = [10 * place for place in range(1, 9)]
    found = view_cluster(CLUSTER, lens, name="c", spans=spans, rows=rows, words=RowWords(rows), lines=lines)
    assert isinstance(found.fires, Measured)
    assert (found.fires.value, found.fires.n) == (5 / 8, 8)  # half of its weight: rows with arr
    assert found.touched == CLUSTER.rows
    assert [row.line for row in found.rows] == [40, 60, 20]  # line 50 says what line 40 says
    assert [row.text for row in found.rows] == ["ye say <<arr>>", "<<arr>> and ye", "now <<arr>>"]
    assert [row.score for row in found.rows] == pytest.approx([1.0, 1.0, 0.75])
    assert len(found.rows) == MOST_ROWS


def test_a_cluster_that_never_fires_is_shown_by_nothing() -> None:
    rows = rows_of(["plain talk", "more of it"])
    lens, spans = lens_and_spans(rows)
    found = view_cluster(CLUSTER, lens, name="c", spans=spans, rows=rows, words=RowWords(rows), lines=[1, 2])
    assert (found.words, found.rows) == ((), ())
    assert isinstance(found.fires, Measured)
    assert found.fires.value == 0.0
