"""What every step of a run starts from: the host, its bank and the rows, loaded from the run's settings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from trimtab.control.build import members
from trimtab.data.read import read_chat
from trimtab.data.split import rows_hash, split_rows
from trimtab.errors import UsageError
from trimtab.lab.exams import skills_in
from trimtab.lab.world import World, build_world
from trimtab.lens.bank import Bank
from trimtab.model.host import Host
from trimtab.records.config import RunSettings, read_settings
from trimtab.records.io import to_json
from trimtab.records.rows import ChatRow, Fit, HeldOut, Rows

LAB = "lab"
Progress = Callable[[str, int, int], None]
"""Called with a stage, steps done and steps in all."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run's inputs, loaded.

    Attributes:
        settings: The run's settings.
        host: The frozen host.
        bank: Its concepts.
        rows: Rows to train on.
        held_out: Rows set aside for verification; empty where the lab asks its own held-out questions instead.
        world: The lab's world, where the host is the lab model.
        skills: Reserved skills of the lab that the rows teach.
    """

    settings: RunSettings
    host: Host
    bank: Bank
    rows: Rows[ChatRow, Fit]
    held_out: Rows[ChatRow, HeldOut]
    world: World | None
    skills: tuple[str, ...]

    @property
    def bank_hash(self) -> str:
        """SHA-256 of the bank's card."""
        return hashlib.sha256(to_json(self.bank.card)).hexdigest()

    @property
    def material(self) -> dict[str, str]:
        """What the settings name, by content: a run folder is only resumed with the same."""
        return {
            "model": self.host.content_hash,
            "data": rows_hash(self.rows),
            "held_out": rows_hash(self.held_out),
            "spec": hashlib.sha256(read_file(Path(self.settings.spec))).hexdigest(),
            "bank": self.bank_hash,
        }


def prepare(settings: RunSettings) -> Prepared:
    """Load a run's inputs.

    Raises:
        UsageError: If a control does not exist, or the model has no bank.
        ModelError, DataError, StorageError: If an input cannot be loaded.
    """
    for control in settings.controls if settings.controls != "auto" else ():
        members(control.name)
    if settings.bank is None and settings.model != LAB:
        raise UsageError(
            f"model {settings.model!r} without a bank",
            allowed="a bank folder made for that model; only the lab model brings its own",
            todo="make one with `trimtab bank make`, then pass it as `bank:` or --bank",
        )
    host = _host(settings.model, settings.revision)
    bank = Bank.load(settings.bank or LAB)
    bank.check_host(host.content_hash)
    rows = read_chat(settings.data, split=Fit, skip_bad=settings.skip_bad_rows)
    world = build_world() if settings.model == LAB else None
    skills = skills_in(world, rows.items) if world else ()
    held_out: Rows[ChatRow, HeldOut] = Rows(items=(), split=HeldOut, source="none")
    if settings.held_out is not None:
        held_out = read_chat(settings.held_out, split=HeldOut, skip_bad=settings.skip_bad_rows)
    elif not skills:
        rows, held_out = split_rows(rows, held_out_share=settings.held_out_share, seed=0)
    return Prepared(settings=settings, host=host, bank=bank, rows=rows, held_out=held_out, world=world, skills=skills)


def read_file(path: Path) -> bytes:
    """A small file of the user's.

    Raises:
        UsageError: If it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", allowed="a file that can be read", todo="check the path"
        ) from error


def forget() -> None:
    """Let go of what was loaded: between two calls, files may have changed behind the same names."""
    prepare_folder.cache_clear()
    _host.cache_clear()


@lru_cache(maxsize=1)
def _host(model: str, revision: str | None) -> Host:
    return Host.load(model, revision=revision)


@lru_cache(maxsize=1)
def prepare_folder(folder: Path) -> Prepared:
    """``prepare`` from a run folder's ``run.yaml``; remembered, because a worker trains several students of one run."""
    return prepare(read_settings(folder / "run.yaml"))
