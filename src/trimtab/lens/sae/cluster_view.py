"""What a cluster of features is about: the words of the rows on which it fires, and where in them it fires most.

Words are counted by rows. One is named if Fisher's exact test, paid for over all words, says that it is more frequent
in the rows on which at least half of the cluster fires; its part of the Kullback-Leibler divergence puts the most
telling first, as in ``lens/labels/cheap.py``. Nothing here says what the cluster *means*: it says what to look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trimtab.lens.labels.windows import FeatureTrace, TokenRows, example_at, highlighted, words_of
from trimtab.lens.sae.cluster_lens import ClusterLens
from trimtab.lens.sae.clusters import Cluster
from trimtab.lens.spans import Spans
from trimtab.records.sae import ClusterReport, ClusterRow
from trimtab.stats import fisher_exact, rate

Bools = NDArray[np.bool_]

HALF: Final = 0.5
"""Share of a cluster, weighted by centrality, from which it counts as firing on a row."""

CHANCE: Final = 0.01
"""Probability that any word is named of rows that have nothing in common (Bonferroni over words)."""

MOST_WORDS: Final = 6
MOST_ROWS: Final = 3
WINDOW: Final = 24
"""Tokens of an excerpt."""


class RowWords:
    """Which words stand in which rows.

    Args:
        rows: The rows; only words whose first token is read count.
    """

    def __init__(self, rows: TokenRows) -> None:
        said = [_said(rows, row) for row in range(len(rows))]
        self._words = sorted(frozenset[str]().union(*said))
        places = {word: place for place, word in enumerate(self._words)}
        self._word = np.array([places[word] for words in said for word in words], dtype=np.int64)
        self._row = np.repeat(np.arange(len(said)), [len(words) for words in said])

    def _counts(self, chosen: Bools) -> NDArray[np.int64]:
        """In how many of the chosen rows each word stands."""
        return np.bincount(self._word[chosen[self._row]], minlength=len(self._words))

    def telling(self, fires: Bools) -> tuple[str, ...]:
        """The words that are surely more frequent in the rows where ``fires``, most telling first.

        Args:
            fires: Whether the cluster fires, ``[row]``.
        """
        inside, outside = int(fires.sum()), int((~fires).sum())
        if not (inside and outside):
            return ()
        here, there = self._counts(fires), self._counts(~fires)
        share, background = here / inside, np.maximum(there, 0.5) / outside
        lift = np.log(np.maximum(share, 0.5 / inside) / background)
        found: list[str] = []
        for word in np.argsort(-share * lift, kind="stable"):
            if lift[word] <= 0 or here[word] == 0 or len(found) == MOST_WORDS:
                break
            if fisher_exact(int(here[word]), inside, int(there[word]), outside) <= CHANCE / len(self._words):
                found.append(self._words[word])
        return tuple(found)


def view_cluster(
    cluster: Cluster,
    lens: ClusterLens,
    *,
    name: str,
    spans: Spans,
    rows: TokenRows,
    words: RowWords,
    lines: Sequence[int],
) -> ClusterReport:
    """What there is to see of a cluster.

    Args:
        cluster: The cluster.
        lens: The same as a lens.
        name: What its lens's folder is called.
        spans: Activations of the tokens that are read, one example per row.
        rows: The same rows as texts.
        words: The same rows as words.
        lines: 1-based line of each row.
    """
    scores = lens.read(spans).numpy()
    on_tokens = lens.tokens(spans.values).numpy()
    values = np.zeros(len(rows.texts), dtype=np.float32)
    values[rows.read] = on_tokens
    trace = FeatureTrace(feature=name, site=lens.card.site, rows=rows, values=values)
    means = np.add.reduceat(on_tokens, spans.offsets[:-1].numpy()) / spans.lengths.numpy()
    fires = scores >= HALF
    return ClusterReport(
        name=name,
        features=cluster.features,
        centrality=cluster.centrality,
        fires=rate(fires),
        touched=cluster.rows,
        words=words.telling(fires),
        rows=_strongest(trace, np.lexsort((-means, -scores)), scores, lines),
    )


def _strongest(
    trace: FeatureTrace, order: NDArray[np.int64], scores: NDArray[np.float32], lines: Sequence[int]
) -> tuple[ClusterRow, ...]:
    found: dict[str, ClusterRow] = {}
    for row in order:
        if scores[row] <= 0 or len(found) == MOST_ROWS:
            break
        text = _excerpt(trace, int(row))
        found.setdefault(text, ClusterRow(line=lines[row], score=float(scores[row]), text=text))
    return tuple(found.values())


def _excerpt(trace: FeatureTrace, row: int) -> str:
    first, last = trace.rows.offsets[row : row + 2]
    example = example_at(trace, int(first + trace.values[first:last].argmax()), WINDOW)
    hidden = frozenset(example.control)
    tokens = [" " if place in hidden else token for place, token in enumerate(example.tokens)]
    text = highlighted(tokens, frozenset({example.peak}))
    return " ".join(text.replace("<< ", " <<").split())


def _said(rows: TokenRows, row: int) -> frozenset[str]:
    """The words of a row, in lower case."""
    first, last = (int(edge) for edge in rows.offsets[row : row + 2])
    words = words_of(rows.texts[first:last], tuple(map(int, np.flatnonzero(rows.control[first:last]))))
    return frozenset(word.casefold() for start, _, word in words if rows.read[first + start])
