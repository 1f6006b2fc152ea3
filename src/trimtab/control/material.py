"""What controls are made from, and the checks that all of them share."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from trimtab.data.template import messages_of
from trimtab.errors import UsageError
from trimtab.lens.bank import Bank, Concept
from trimtab.records.forecast import Forecast
from trimtab.records.ledger import Ledger
from trimtab.records.rows import ChatRow
from trimtab.records.training import Attribution, TrainingRow


@dataclass(frozen=True, kw_only=True)
class Material:
    """Everything that a control may be built from.

    Attributes:
        bank: The host's named concepts.
        ledger: The rulings in force.
        attribution: Which rows and tokens of the training data push which concept; ``None`` if not computed.
        clean_rows: Rows that show no unwanted trait, to mix in; where empty, the bank's neutral rows stand in.
        seed: Seed of every random choice a control makes.
        forecast: Where given, avoided concepts that the data does not teach are left out of prompts, steering and
            masks (as long as one that it does teach remains).
        tokenizer: Where given, decides whether a prompt can go into a system turn; where not, a system turn is used.
    """

    bank: Bank
    ledger: Ledger
    attribution: Attribution | None
    clean_rows: tuple[ChatRow, ...]
    seed: int
    forecast: Forecast | None = None
    tokenizer: PreTrainedTokenizerBase | None = None


def avoided(material: Material, control: str) -> tuple[Concept, ...]:
    """The concepts that a control works against, in ledger order.

    Raises:
        UsageError: If the ledger avoids nothing, or avoids a concept that the bank does not know.
    """
    names = [ruling.concept for ruling in material.ledger.with_verdict("avoid")]
    if not names:
        raise UsageError(
            f"control {control!r} with a ledger that avoids no concept",
            allowed="a ledger in which at least one concept is ruled `avoid`",
            todo="say in the spec what is not wanted (or add a rule `avoid`), or use the control `none`",
        )
    if material.forecast is not None:
        taught = {item.concept for item in material.forecast.concepts if item.taught}
        names = [name for name in names if name in taught] or names
    return tuple(material.bank[name] for name in names)


def needed_attribution(material: Material, control: str, concepts: Sequence[Concept]) -> Attribution:
    """The attribution, checked to cover the concepts.

    Raises:
        UsageError: If there is none, or if it was made without one of the concepts.
    """
    if material.attribution is None:
        raise UsageError(
            f"control {control!r} without an attribution of the training data",
            allowed="an attribution: which rows and tokens push which concept",
            todo="forecast the data first (trimtab forecast keeps it as attribution.safetensors)",
        )
    known = material.attribution.trait_rows.keys() & material.attribution.trait_tokens.keys()
    missing = [concept.name for concept in concepts if concept.name not in known]
    if missing:
        raise UsageError(
            f"control {control!r} for {', '.join(missing)}, which the attribution does not cover",
            allowed=f"concepts of the attribution: {', '.join(sorted(known))}",
            todo="forecast the data again with the bank that the ledger was made from",
        )
    return material.attribution


def rows_that_show(attribution: Attribution, concepts: Sequence[Concept], control: str) -> NDArray[np.bool_]:
    """Which rows show at least one of the concepts: bool ``[row]``.

    Raises:
        UsageError: If none does, so that the control would do nothing.
    """
    shown: NDArray[np.bool_] = np.any([attribution.trait_rows[concept.name] for concept in concepts], axis=0)
    if not shown.any():
        names = ", ".join(concept.name for concept in concepts)
        raise UsageError(
            f"control {control!r}, but none of {len(shown)} rows shows {names}",
            allowed="data of which the attribution says that some row shows an avoided concept",
            todo="use the control `none` (or `clean-rows`, as insurance), or check the forecast",
        )
    return shown


def strongest(pushes: NDArray[np.float32], candidates: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """The hardest-pushing share of some candidates; ties go to the earlier one.

    Args:
        pushes: Push of each row or token, ``[n]``.
        candidates: Which may be picked, ``[n]``.
        share: 0 picks none, 1 picks every candidate.

    Returns:
        bool ``[n]``; a larger share always picks a superset.
    """
    places = np.flatnonzero(candidates)
    order = np.argsort(-pushes[places].astype(np.float64), kind="stable")
    picked = np.zeros_like(candidates)
    picked[places[order[: round(share * len(places))]]] = True
    return picked


def hardest_push(
    pushes: NDArray[np.float32], attribution: Attribution, concepts: Sequence[Concept]
) -> NDArray[np.float32]:
    """Largest push over some concepts: ``[n, concept] -> [n]``."""
    columns = [attribution.concepts.index(concept.name) for concept in concepts]
    largest: NDArray[np.float32] = pushes[:, columns].max(axis=1)
    return largest


def draw(seed: int, source: int, what: str) -> float:
    """A number in [0, 1) that depends on these three alone: the same on every machine and in every row order."""
    digest = hashlib.sha256(f"{what}:{seed}:{source}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def check_source(row: TrainingRow, count: int) -> None:
    """Refuse a row that the attribution does not know.

    Raises:
        UsageError: If its source lies outside the attribution.
    """
    if row.source >= count:
        raise UsageError(
            f"row {row.source} of the training data, with an attribution of {count} rows",
            allowed=f"rows 0 to {count - 1}",
            todo="forecast the same file that is trained on",
        )


def clean_training_rows(material: Material, control: str, count: int) -> tuple[TrainingRow, ...]:
    """Clean rows in a seeded order, starting over when there are fewer than asked for.

    Raises:
        UsageError: If rows are asked for and there is none.
    """
    pool = material.clean_rows or material.bank.card.neutral_rows
    if count and not pool:
        raise UsageError(
            f"control {control!r} asks for {count} clean rows, and there is none",
            allowed="rows that do not show the unwanted concept, or a bank with neutral rows",
            todo="set clean_share to 0, or give clean rows",
        )
    order = list(range(len(pool)))
    random.Random(material.seed).shuffle(order)
    return tuple(TrainingRow(messages=messages_of(pool[order[n % len(pool)]]), source=-1) for n in range(count))
