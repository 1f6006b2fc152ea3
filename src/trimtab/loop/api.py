"""Entry points of the Python API that need more than one layer."""

from __future__ import annotations

from trimtab.decide.rule import decide as rule_on
from trimtab.decide.similarity import Embedder
from trimtab.lens.embed import sentence_embedder
from trimtab.records.forecast import Forecast
from trimtab.records.ledger import Ledger, Spec


def decide(forecast: Forecast, spec: Spec | str, embed: Embedder | None = None) -> Ledger:
    """Rule on every concept of a forecast, with the packaged sentence embedder unless another is given.

    Args:
        forecast: What the data would teach.
        spec: A spec, or its text (a sentence will do).
        embed: Texts to unit vectors.

    Raises:
        UsageError: If a rule names a concept that the forecast does not have.
        ProtectedConceptError: If the spec asks to train on a protected concept.
    """
    return rule_on(forecast, spec, embed or sentence_embedder())
