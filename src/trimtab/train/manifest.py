"""``manifest.json``: what made a folder, and whether another call would make the same."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, cast

from trimtab.errors import StorageError

_PACKAGES: Final = (
    "trimtab",
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "safetensors",
    "tokenizers",
    "numpy",
)


@dataclass(frozen=True, kw_only=True)
class Git:
    """The repository in the working directory."""

    commit: str
    dirty: bool


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What made a run or a student.

    Attributes:
        identity: All that decides the outcome: settings, seeds, hashes of model and data, controls. A folder is only
            resumed by a call with the same identity.
        command: The command line.
        made_at: UTC time of the first call, ISO 8601.
        versions: Of Python and the libraries.
        git: Commit of the working directory; ``None`` outside a repository.
        threads: CPU threads that compute.
        machine: Operating system and architecture.
    """

    identity: dict[str, object]
    command: tuple[str, ...]
    made_at: str
    versions: dict[str, str]
    git: Git | None
    threads: int
    machine: str


def make_manifest(identity: Mapping[str, object], *, threads: int, command: Sequence[str] | None = None) -> Manifest:
    """Describe the present call; ``command`` defaults to this process's own."""
    return Manifest(
        identity=_plain(identity),
        command=tuple(sys.argv if command is None else command),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=library_versions(),
        git=git_state(Path.cwd()),
        threads=threads,
        machine=f"{platform.system()} {platform.machine()}",
    )


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide the bits."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_state(folder: Path) -> Git | None:
    """Commit and dirty flag of the repository around a folder; ``None`` where there is none, or no git."""
    git = shutil.which("git")
    if git is None:
        return None
    try:
        commit = _run([git, "-C", str(folder), "rev-parse", "HEAD"])
        status = _run([git, "-C", str(folder), "status", "--porcelain"])
    except (OSError, subprocess.SubprocessError):
        return None
    return Git(commit=commit, dirty=bool(status))


def check_identity(found: Manifest, wanted: Mapping[str, object], *, folder: Path) -> None:
    """Refuse to go on in a folder that another call has made.

    Raises:
        StorageError: Names every setting, hash or seed that differs, with both values.
    """
    before, now = dict(_leaves(found.identity)), dict(_leaves(_plain(wanted)))
    differing = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if differing:
        shown = "".join(f"\n  {key}: {_short(before.get(key))} there, {_short(now.get(key))} now" for key in differing)
        raise StorageError(
            f"{folder} was made by a call that differs from this one:{shown}",
            allowed="the same settings, model and data, to resume what was begun",
            todo="choose another output folder, set back what differs, or remove the folder to begin anew",
        )


def _run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def _plain(identity: Mapping[str, object]) -> dict[str, object]:
    """As it will look when it is read back from JSON."""
    return cast("dict[str, object]", json.loads(json.dumps(dict(identity))))


def _leaves(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, inner in cast("dict[str, object]", value).items():
            yield from _leaves(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value


def _short(value: object) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
