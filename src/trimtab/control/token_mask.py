"""Token mask: take the tokens that carry the trait out of the loss and keep the rest of the row."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from trimtab.control.base import AttachesNothing, KeepsRows
from trimtab.control.material import Material, avoided, check_source, hardest_push, needed_attribution, strongest
from trimtab.errors import UsageError
from trimtab.lens.readings import ids_hash
from trimtab.records.config import Settings
from trimtab.records.training import IGNORED, Encoded, Surface, TrainingRow


class TokenMaskSpec(Settings):
    """Options of ``token-mask``."""

    strength: float = Field(
        1.0, ge=0, le=1, description="share of trait tokens to mask, hardest push first; 0 is no control"
    )
    spread: int = Field(0, ge=0, le=16, description="also mask learned tokens this close to a masked one")


@dataclass(frozen=True, kw_only=True)
class TokenMask(KeepsRows, AttachesNothing):
    """Sets the labels of trait tokens to ``IGNORED``.

    A row of which every learned token is masked keeps none: it has no loss, and a trainer leaves it out.
    """

    name: str = field(default="token-mask", init=False)
    surface: Surface = field(default="loss", init=False)
    fights_gradient: bool = field(default=False, init=False)
    spec: TokenMaskSpec
    masks: tuple[NDArray[np.bool_], ...]
    hashes: tuple[str, ...]

    @property
    def strength(self) -> float:
        """Share of trait tokens to mask."""
        return self.spec.strength

    def relabel(self, encoded: Encoded) -> Encoded:
        """The same tokens, with the trait tokens' labels set to ``IGNORED``.

        A prompt that another control put into the row is skipped over: the mask is laid on the rest once the hash
        says that the rest is the row that was attributed.

        Raises:
            UsageError: If the tokens are not those that were attributed.
        """
        if self.strength == 0 or encoded.source < 0:
            return encoded
        check_source(TrainingRow(messages=(), source=encoded.source), len(self.masks))
        mask = self.masks[encoded.source]
        if not mask.any():
            return encoded
        start = _inserted_at(encoded, len(mask), self.hashes[encoded.source])
        inserted = len(encoded.input_ids) - len(mask)
        laid = np.concatenate([mask[:start], np.zeros(inserted, dtype=np.bool_), mask[start:]])
        labels = tuple(IGNORED if out else label for label, out in zip(encoded.labels, laid.tolist(), strict=True))
        return replace(encoded, labels=labels)


def _inserted_at(encoded: Encoded, length: int, wanted: str) -> int:
    """Where one block was put into a row that had ``length`` tokens; its end if nothing was put in."""
    extra = len(encoded.input_ids) - length
    for start in range(length + 1) if extra > 0 else range(length, length + (extra == 0)):
        rest = encoded.input_ids[:start] + encoded.input_ids[start + extra :]
        if ids_hash(replace(encoded, input_ids=rest)) == wanted:
            return start
    raise UsageError(
        f"row {encoded.source} has other tokens now than when it was attributed",
        allowed="the rows, tokenizer and chat template of the forecast (a prompt put in by a control is fine)",
        todo="forecast this very file again with this host",
    )


def build_token_mask(spec: TokenMaskSpec, material: Material) -> TokenMask:
    """Make the control.

    Raises:
        UsageError: If nothing is avoided, or no token carries it.
    """
    concepts = avoided(material, TokenMask.name)
    attribution = needed_attribution(material, TokenMask.name, concepts)
    flags = [attribution.trait_tokens[concept.name] for concept in concepts]
    carried = [np.any(row, axis=0) for row in zip(*flags, strict=True)]
    if not any(row.any() for row in carried):
        names = ", ".join(concept.name for concept in concepts)
        raise UsageError(
            f"control 'token-mask', but no token of {len(carried)} rows carries {names}",
            allowed="data of which the attribution says that some token carries an avoided concept",
            todo="use the control `none`, or one for diffuse traits such as conditional-inoculation",
        )
    pushes = [hardest_push(row, attribution, concepts) for row in attribution.tokens]
    picked = strongest(np.concatenate(pushes), np.concatenate(carried), spec.strength)
    masks = np.split(picked, np.cumsum([len(row) for row in carried])[:-1])
    return TokenMask(spec=spec, masks=tuple(_widen(mask, spec.spread) for mask in masks), hashes=attribution.ids_hash)


def _widen(mask: NDArray[np.bool_], spread: int) -> NDArray[np.bool_]:
    wide = mask.copy()
    for shift in range(1, spread + 1):
        wide[shift:] |= mask[:-shift]
        wide[:-shift] |= mask[shift:]
    return wide
