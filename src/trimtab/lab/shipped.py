"""The weights inside the package, and the seal that ties them to their recipe."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trimtab.errors import StorageError
from trimtab.lab.check import CheckItem

WEIGHTS = Path(__file__).parent / "weights"
"""Hugging Face folder of the shipped lab model."""


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_recipe(folder: Path = WEIGHTS) -> dict[str, Any]:
    """The recipe that made a lab model.

    Raises:
        StorageError: If there is none.
    """
    try:
        recipe: dict[str, Any] = json.loads((folder / "recipe.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise StorageError(
            f"no readable recipe.json in {folder}", allowed="a folder made by lab training", todo="train the lab again"
        ) from error
    return recipe


def seal(folder: Path, items: Iterable[CheckItem]) -> dict[str, Any]:
    """Write the hash of the weights and the check results into ``recipe.json``; returns its contents."""
    recipe = read_recipe(folder)
    recipe["model_sha256"] = sha256(folder / "model.safetensors")
    recipe["tokenizer_sha256"] = sha256(folder / "tokenizer.json")
    recipe["check"] = [item.to_json() for item in items]
    partial = folder / "recipe.json.partial"
    partial.write_text(json.dumps(recipe, indent=1, ensure_ascii=False) + "\n")
    os.replace(partial, folder / "recipe.json")
    return recipe


def verify_seal(folder: Path = WEIGHTS) -> None:
    """Refuse weights that are not those of the recipe.

    Raises:
        StorageError: If a hash is missing or differs.
    """
    recipe = read_recipe(folder)
    for key, name in (("model_sha256", "model.safetensors"), ("tokenizer_sha256", "tokenizer.json")):
        if recipe.get(key) != sha256(folder / name):
            raise StorageError(
                f"{folder / name} is not the file that recipe.json names",
                allowed="the files that the recipe made",
                todo="install the package again, or train and seal the lab again",
            )
