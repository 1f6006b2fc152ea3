"""What controls rewrite on the way from rows to a training step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trimtab.records.rows import Message
from trimtab.records.site import Site

IGNORED: Final = -100
"""Label of a token that carries no loss (PyTorch's ``ignore_index``)."""

Surface: TypeAlias = Literal["data", "prompt", "activations", "loss", "reward", "gradient", "weights"]


@dataclass(frozen=True, kw_only=True)
class TrainingRow:
    """A conversation on its way into training.

    Attributes:
        messages: The turns; every assistant turn is learned.
        source: 0-based row of the user's data, or -1 for a row that a control added.
    """

    messages: tuple[Message, ...]
    source: int


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A tokenised conversation.

    Attributes:
        input_ids: Token ids, length ``tokens``.
        labels: ``labels[t]`` is ``input_ids[t]`` where token ``t`` is learned, else ``IGNORED``. Not shifted:
            the model shifts, as Hugging Face causal LMs do.
        source: As in ``TrainingRow``.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    source: int


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """Per-token and per-row pushes of a dataset: the full-resolution companion of a ``Forecast``.

    Attributes:
        concepts: Names, in column order.
        site: The site that was read.
        tokens: One array per row, float32 ``[tokens, concepts]``; entry ``[t, c]`` is the push of learning token
            ``t`` (read where it is predicted, at ``t - 1``); zero where token ``t`` is not learned.
        rows: float32 ``[rows, concepts]``: mean over each row's learned tokens.
        trait_rows: Per concept, which rows carry it beyond what plain rows do: bool ``[rows]``.
        trait_tokens: Per concept, which learned tokens carry it: one bool array ``[tokens]`` per row.
        ids_hash: Hash of each row's ``input_ids``, so that a mask is never laid on other tokens.
    """

    concepts: tuple[str, ...]
    site: Site
    tokens: tuple[NDArray[np.float32], ...]
    rows: NDArray[np.float32]
    trait_rows: Mapping[str, NDArray[np.bool_]]
    trait_tokens: Mapping[str, tuple[NDArray[np.bool_], ...]]
    ids_hash: tuple[str, ...]
