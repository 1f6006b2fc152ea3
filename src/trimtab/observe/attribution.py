"""Which rows and which tokens carry each concept; saved beside the forecast for the controls that need it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors

from trimtab.errors import StorageError
from trimtab.lens.bank import Bank
from trimtab.lens.readings import Readings, ids_hash
from trimtab.observe.explained import Explained
from trimtab.observe.pushes import Decomposition
from trimtab.records.io import write_bytes
from trimtab.records.site import Site
from trimtab.records.training import IGNORED, Attribution

TOKEN_NATS = 0.5
"""A token of a row that carries a trait carries it when the prompt makes it at least this much likelier, in nats."""

ROW_DOSE = 0.5
"""Without an eliciting prompt: a row carries a concept when its own gradient holds at least half of a pure dose."""


def attribute(
    readings: Readings,
    decomposition: Decomposition,
    bank: Bank,
    site: Site,
    by_prompt: Explained,
) -> Attribution:
    """Mark the rows and tokens that carry each concept of a bank.

    Args:
        readings: The rows as read at ``site``, with token pushes.
        decomposition: Of the same readings.
        bank: The host's bank.
        site: Where.
        by_prompt: For concepts with an eliciting prompt, what it explains of all rows: such a concept is
            marked by that. Any other is marked by its pushes: a row when its push is above that of 99% of
            plain rows and its own dose at least ``ROW_DOSE``, a token of such a row when its push is above that of 99%
            of plain tokens.
    """
    trait_rows: dict[str, NDArray[np.bool_]] = {}
    trait_tokens: dict[str, tuple[NDArray[np.bool_], ...]] = {}
    for i, concept in enumerate(bank.concepts):
        if concept.name in by_prompt.by_prompt:
            nats, carried = by_prompt.by_prompt[concept.name], by_prompt.carriers[concept.name]
            tokens = tuple((row >= TOKEN_NATS) & bool(carried[n]) for n, row in enumerate(nats))
        else:
            _, row_p99, token_p99 = concept.card.plain_push
            carried = (decomposition.row_push[:, i] > row_p99) & (decomposition.row_dose[:, i] >= ROW_DOSE)
            tokens = tuple(
                (pushes[:, i] > token_p99) & bool(carried[n]) & _learned(readings, n)
                for n, pushes in enumerate(readings.token_pushes)
            )
        trait_rows[concept.name], trait_tokens[concept.name] = carried, tokens
    return Attribution(
        concepts=bank.names,
        site=site,
        tokens=readings.token_pushes,
        rows=decomposition.row_push,
        trait_rows=trait_rows,
        trait_tokens=trait_tokens,
        ids_hash=tuple(ids_hash(encoded) for encoded in readings.encoded),
    )


def _learned(readings: Readings, row: int) -> NDArray[np.bool_]:
    learned: NDArray[np.bool_] = np.asarray(readings.encoded[row].labels) != IGNORED
    return learned


def save_attribution(attribution: Attribution, path: Path) -> None:
    """Write an attribution as one safetensors file.

    Raises:
        StorageError: If the file cannot be written.
    """
    lengths = torch.tensor([len(tokens) for tokens in attribution.tokens], dtype=torch.int64)
    tensors = {
        "lengths": lengths,
        "tokens": torch.from_numpy(np.concatenate(attribution.tokens)),
        "rows": torch.from_numpy(attribution.rows),
        "trait_rows": torch.from_numpy(np.stack([attribution.trait_rows[name] for name in attribution.concepts])),
        "trait_tokens": torch.from_numpy(
            np.stack([np.concatenate(attribution.trait_tokens[name]) for name in attribution.concepts])
        ),
    }
    metadata = {
        "concepts": json.dumps(attribution.concepts),
        "site": str(attribution.site),
        "ids_hash": json.dumps(attribution.ids_hash),
    }
    write_bytes(path, to_safetensors(tensors, metadata=metadata))


def load_attribution(path: Path) -> Attribution:
    """Read an attribution.

    Raises:
        StorageError: If the file is missing or damaged.
    """
    try:
        opened: Any = safe_open(path, framework="pt")
        with opened as file:
            metadata: dict[str, str] = file.metadata()
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in list(file.keys())}
        names = tuple(json.loads(metadata["concepts"]))
        cuts = cast("list[int]", tensors["lengths"].cumsum(0)[:-1].tolist())
        by_concept = tensors["trait_tokens"].numpy()
        return Attribution(
            concepts=names,
            site=Site.parse(metadata["site"]),
            tokens=tuple(np.split(tensors["tokens"].numpy(), cuts)),
            rows=tensors["rows"].numpy(),
            trait_rows={name: tensors["trait_rows"][i].numpy() for i, name in enumerate(names)},
            trait_tokens={name: tuple(np.split(by_concept[i], cuts)) for i, name in enumerate(names)},
            ids_hash=tuple(json.loads(metadata["ids_hash"])),
        )
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise StorageError(
            f"cannot read {path}: {error}",
            allowed="an attribution.safetensors written by trimtab",
            todo="remove the file and run the forecast again",
        ) from error
