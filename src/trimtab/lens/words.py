"""Bag of words: the baseline that every clever lens has to beat."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression

_TOKEN = re.compile(r"\w+|[^\w\s]+")


def words(text: str) -> Counter[str]:
    """Lower-case words and runs of punctuation with their counts."""
    return Counter(_TOKEN.findall(text.lower()))


def fit_words(positive: Sequence[str], neutral: Sequence[str], *, keep: int = 64) -> dict[str, float]:
    """Fit an L2 logistic classifier on word counts; return its largest weights.

    Args:
        positive: Answers that show the concept.
        neutral: Answers that do not.
        keep: How many weights to keep, by magnitude.

    Returns:
        Log-odds per occurrence of a word.
    """
    vectorizer = DictVectorizer(sparse=True)
    features = vectorizer.fit_transform([words(text) for text in (*positive, *neutral)])
    labels = np.array([1] * len(positive) + [0] * len(neutral))
    fitted = LogisticRegression(C=1.0, max_iter=1000, class_weight="balanced")
    fitted.fit(features, labels)
    weights: NDArray[np.float64] = np.asarray(fitted.coef_[0], dtype=np.float64)
    order = np.argsort(-np.abs(weights), kind="stable")[:keep]
    names = vectorizer.get_feature_names_out()
    return {str(names[i]): float(weights[i]) for i in order if weights[i] != 0.0}


def read_words(weights: Mapping[str, float], text: str) -> float:
    """Log-odds of a text under the classifier, without its constant."""
    return sum((weights.get(word, 0.0) * count for word, count in words(text).items()), 0.0)
