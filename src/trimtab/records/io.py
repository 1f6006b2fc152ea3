"""Records to JSON and back: one way, atomic, strict.

Every record is a frozen dataclass; pydantic's ``TypeAdapter`` serialises and validates it, so that a file that was
edited by hand or torn by a crash is refused with a message rather than half believed.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from trimtab.errors import StorageError, UsageError

RecordT = TypeVar("RecordT")


def to_json(record: object) -> bytes:
    """Indented UTF-8 JSON of any record.

    Raises:
        UsageError: If a number in it is NaN or infinite: JSON has neither, and ``null`` would hide it.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(type(record))
    try:
        text = json.dumps(adapter.dump_python(record, mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise UsageError(
            f"{type(record).__name__} with a number that is not finite",
            allowed="finite numbers",
            todo="use Unmeasured(reason=...) for a figure that could not be measured",
        ) from error
    return text.encode() + b"\n"


def from_json(kind: type[RecordT], text: bytes | str, *, source: str = "<memory>") -> RecordT:
    """Read a record.

    Raises:
        StorageError: If the text is not a valid record of that kind.
    """
    adapter: TypeAdapter[RecordT] = TypeAdapter(kind)
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        raise StorageError(
            f"{source} is not a valid {kind.__name__}: {where}: {first['msg']}",
            allowed=f"a {kind.__name__} file written by trimtab",
            todo="check that it is the right file; if trimtab made it and it is damaged, move it away and "
            "run the same command again",
        ) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: temporary file in the same folder, fsync, rename.

    Raises:
        StorageError: If the folder cannot be written or the disk is full; an older file at ``path`` is kept.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise storage_error(path, error) from error


def append_line(path: Path, data: bytes) -> None:
    """Append one line to a file and flush it to disk.

    Raises:
        StorageError: As ``write_bytes``; what stood in the file before is kept.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data.rstrip(b"\n") + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise storage_error(path, error) from error


def save(record: object, path: Path) -> None:
    """Write a record as JSON, atomically."""
    write_bytes(path, to_json(record))


def load(kind: type[RecordT], path: Path) -> RecordT:
    """Read a record from a JSON file.

    Raises:
        StorageError: If the file is missing, unreadable or not such a record.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise StorageError(
            f"cannot read {path}: {error.strerror}",
            allowed=f"a {kind.__name__} file written by trimtab",
            todo="check the path, or run the step that makes it",
        ) from error
    return from_json(kind, text, source=str(path))


def storage_error(path: Path, error: OSError) -> StorageError:
    """The clear form of an ``OSError`` met while writing."""
    return StorageError(
        f"cannot write {path}: {error.strerror or error}",
        allowed="a writable folder with free space",
        todo="free space or choose another output folder, then run the same command again: it resumes",
    )
