"""Run folders: what lies where, one process at a time, and no mixing of two runs.

```
RUN/  run.yaml  manifest.json  spec.md  forecast.json  attribution.safetensors  ledger.jsonl
      league.json  summary.json  certificate.json  report.html
      arms/CONTROL/seed-K/  manifest.json  metrics.jsonl  checkpoint-N/  adapter_model.safetensors | model.safetensors
                            done.json  proof.json  answers.jsonl  result.json
```

Every JSON file is written whole or not at all. ``kill -9`` leaves nothing that the next call could take for finished
work: locks go with the process that held them, and a student counts as trained only once ``done.json`` is there.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from trimtab.errors import StorageError, UsageError
from trimtab.records.config import RunSettings, write_settings
from trimtab.records.io import load, save, storage_error
from trimtab.train.manifest import Manifest, check_identity, make_manifest

MANIFEST: Final = "manifest.json"
_LOCK: Final = ".lock"
_MAY_STAND: Final = frozenset({"run.yaml", "spec.md"})
"""What a folder may hold before its manifest is written."""

_NO_EFFECT: Final = frozenset({"jobs"})
"""Settings that change how fast a run ends, not how."""


@contextmanager
def open_run(
    path: Path,
    settings: RunSettings,
    *,
    material: Mapping[str, object],
    threads: int,
    command: Sequence[str] | None = None,
) -> Generator[Manifest]:
    """Open a run folder, new or begun, and keep other processes out of it.

    Args:
        path: The folder; made where it is missing.
        settings: The whole configuration; ``jobs`` may differ from call to call.
        material: What the settings name, by content: hashes of model, data, spec and bank.
        threads: CPU threads that compute (``threads.training_threads``).
        command: The command line; default: this process's.

    Raises:
        StorageError: If it cannot be written, another process is using it, it holds something else, or it was made
            with other settings, model or data (says which).
    """
    identity = {"settings": settings.model_dump(mode="json", exclude=set(_NO_EFFECT)), "material": dict(material)}
    with locked(path):
        _refuse_foreign(path)
        manifest = claim(path, identity, threads=threads, command=command)
        write_settings(settings, path / "run.yaml")
        yield manifest


def claim(
    path: Path, identity: Mapping[str, object], *, threads: int, command: Sequence[str] | None = None
) -> Manifest:
    """Write the manifest of a new folder, or check that of an old one; call it while holding the lock.

    Raises:
        StorageError: If the folder was made by another kind of call, or cannot be written.
    """
    if (path / MANIFEST).exists():
        manifest = load(Manifest, path / MANIFEST)
        check_identity(manifest, identity, folder=path)
        return manifest
    manifest = make_manifest(identity, threads=threads, command=command)
    save(manifest, path / MANIFEST)
    return manifest


@contextmanager
def locked(path: Path, *, patience: float = 0.0) -> Generator[None]:
    """Hold a folder for this process. The operating system frees it when the process ends, however it ends.

    Args:
        path: The folder; made where it is missing.
        patience: Seconds to wait for another process to let go.

    Raises:
        StorageError: If another process holds it, or it cannot be written.
    """
    lock = FileLock(path / _LOCK, timeout=patience)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise StorageError(
            f"another process is working in {path}",
            allowed="one process at a time in a folder",
            todo="wait for it to end or stop it; a lock never outlives its process",
        ) from error
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        yield
    finally:
        lock.release()


def refuse_several_processes() -> None:
    """Refuse to train as one of several processes.

    Raises:
        UsageError: If torchrun or accelerate started this process beside others.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        raise UsageError(
            f"training started as one of {processes} processes (WORLD_SIZE)",
            allowed="one process for one student",
            todo="start without torchrun or accelerate; `jobs` trains several students side by side",
        )


def _refuse_foreign(path: Path) -> None:
    if (path / MANIFEST).exists():
        return
    strange = sorted(
        entry.name for entry in path.iterdir() if entry.name not in _MAY_STAND and not entry.name.startswith(".")
    )
    if strange:
        raise StorageError(
            f"{path} is not a run folder: it has no {MANIFEST} but holds {', '.join(strange[:5])}",
            allowed="a folder that is new, empty, or was made by a run",
            todo="choose another output folder",
        )
