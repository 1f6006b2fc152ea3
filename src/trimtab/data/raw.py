"""Files to raw rows: column dictionaries with the line they came from, or the fault that stands in their place.

Nothing here knows what a row means. A damaged line never ends the reading: it becomes a ``Fault`` and the next line is
read, so that one pass lists everything that is wrong with a file.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import sys
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any, TypeAlias, cast

import pyarrow as pa
import pyarrow.ipc as arrow_ipc
import pyarrow.parquet as arrow_parquet

from trimtab.errors import DataError, Fault

FORMATS = ".jsonl, .json, .csv (each also .gz), .parquet, or a folder saved by datasets' save_to_disk"
_BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")
_DAMAGE = (OSError, EOFError, zlib.error)
_ARROW_DAMAGE: tuple[type[Exception], ...] = (OSError, cast("type[Exception]", pa.ArrowException))


@dataclass(frozen=True, kw_only=True)
class RawRow:
    """One row as it stands in the file.

    Attributes:
        line: 1-based physical line (JSONL, CSV) or row number (JSON arrays, Parquet, ``datasets`` folders).
        columns: Column name to value.
    """

    line: int
    columns: dict[str, object]


Raw: TypeAlias = RawRow | Fault


def read_raw(path: Path) -> Iterator[Raw]:
    """Stream the rows of a file or folder, faults in place.

    Raises:
        DataError: If there is no such file, it cannot be opened, or its format is not one that Trimtab reads.
    """
    if not path.exists():
        raise _unreadable(path, "there is no such file or folder")
    if path.is_dir():
        return _read_folder(path)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else "".join(suffixes[-1:])
    reader = _READERS.get(kind)
    if reader is None or (kind == ".parquet" and suffixes[-1] == ".gz"):
        raise _unreadable(path, f"the format {''.join(suffixes[-2:]) or '(no suffix)'} is not read")
    return reader(path)


def _unreadable(path: Path, reason: str) -> DataError:
    return DataError(f"cannot read {path}: {reason}", allowed=FORMATS, todo="check the path, or convert the file")


def _open(path: Path) -> BufferedIOBase:
    try:
        return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error


def _lines(path: Path, *, file: BufferedIOBase) -> Iterator[tuple[int, bytes | Fault]]:
    """Number the physical lines, drop a byte-order mark, and turn a damaged archive into a fault."""
    number = 0
    try:
        for number, line in enumerate(file, 1):
            if number == 1 and line.startswith(_WIDE_BOMS):
                yield 1, Fault(file=str(path), line=1, reason="the file is UTF-16, not UTF-8: save it as UTF-8")
                return
            yield number, line.removeprefix(_BOM) if number == 1 else line
    except _DAMAGE as error:
        yield number + 1, Fault(file=str(path), line=number + 1, reason=f"the file is damaged or cut off: {error}")


def _text(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"invalid UTF-8 at byte {error.start + 1} of the line") from error


class _RepeatedKeyError(ValueError):
    """A JSON object names a key twice: which one was meant cannot be known."""


def _object_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    seen: dict[str, object] = {}
    for key, value in pairs:
        if key in seen:
            raise _RepeatedKeyError(f"the key {key!r} stands twice in one object")
        seen[key] = value
    return seen


def _parse_json(text: str) -> object:
    """Strict JSON; raises ``ValueError`` with a reason that a person can act on."""
    try:
        return cast("object", json.loads(text, object_pairs_hook=_object_once))
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno} column {error.colno}"
        raise ValueError(f"not valid JSON: {error.msg} at {where}") from error
    except RecursionError as error:
        raise ValueError("not readable JSON: nested too deeply") from error


def _columns(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"a row must be a JSON object, not {_json_kind(value)}")
    return cast("dict[str, object]", value)


def _json_kind(value: object) -> str:
    names: dict[str, str] = {"list": "an array", "str": "a string", "bool": "a boolean", "NoneType": "null"}
    return names.get(type(value).__name__, "a number")


def _read_jsonl(path: Path) -> Iterator[Raw]:
    with _open(path) as file:
        for number, line in _lines(path, file=file):
            if isinstance(line, Fault):
                yield line
            elif line.strip():
                try:
                    yield RawRow(line=number, columns=_columns(_parse_json(_text(line).rstrip("\r\n"))))
                except ValueError as error:
                    torn = "" if line.endswith(b"\n") else "; the file ends here without a line end: half-written?"
                    yield Fault(file=str(path), line=number, reason=f"{error}{torn}")


def _read_json(path: Path) -> Iterator[Raw]:
    """A JSON array of rows; a ``.json`` file that does not open with ``[`` is read as JSON Lines."""
    with _open(path) as file:
        try:
            head = file.read(4096).removeprefix(_BOM).lstrip()
            array = head.startswith(b"[")
            data = head + file.read() if array else b""
        except _DAMAGE as error:
            yield Fault(file=str(path), line=1, reason=f"the file is damaged or cut off: {error}")
            return
    if not array:
        yield from _read_jsonl(path)
        return
    try:
        rows = cast("list[object]", _parse_json(_text(data)))
    except ValueError as error:
        yield Fault(file=str(path), line=1, reason=str(error))
        return
    for number, row in enumerate(rows, 1):
        try:
            yield RawRow(line=number, columns=_columns(row))
        except ValueError as error:
            yield Fault(file=str(path), line=number, reason=str(error))


@contextmanager
def _long_fields() -> Generator[None]:
    """Lift the csv module's limit of 128 KiB per field; the old limit comes back afterwards."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _csv_text(path: Path, file: BufferedIOBase, broken: dict[int, Fault]) -> Iterator[str]:
    """Decode physical lines for the csv module; a line that is not UTF-8 is noted and goes on with marks in it."""
    for number, line in _lines(path, file=file):
        if isinstance(line, Fault):
            broken[number] = line
            return
        try:
            yield _text(line)
        except ValueError as error:
            broken[number] = Fault(file=str(path), line=number, reason=str(error))
            yield line.decode("utf-8", errors="replace")


def _csv_records(path: Path, file: BufferedIOBase) -> Iterator[tuple[int, list[str] | Fault]]:
    """Records with the physical line that each begins on."""
    broken: dict[int, Fault] = {}
    reader = csv.reader(_csv_text(path, file, broken), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            yield start, Fault(file=str(path), line=start, reason=f"not valid CSV: {error}")
            continue
        faults = [broken.pop(line) for line in sorted(broken) if line <= reader.line_num]
        if faults or cells:
            yield start, faults[0] if faults else cells
    yield from broken.items()


def _read_csv(path: Path) -> Iterator[Raw]:
    with _open(path) as file, _long_fields():
        records = _csv_records(path, file)
        line, header = next(records, (1, list[str]()))
        if isinstance(header, Fault):
            yield header
            return
        names = [name.strip() for name in header]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            yield Fault(file=str(path), line=line, reason=f"column {repeated[0]!r} stands twice in the header")
            return
        for line, cells in records:
            yield cells if isinstance(cells, Fault) else _csv_row(path, line, names, cells)


def _csv_row(path: Path, line: int, header: list[str], cells: list[str]) -> Raw:
    if len(cells) != len(header):
        return Fault(file=str(path), line=line, reason=f"{len(cells)} cells where the header has {len(header)}")
    return _table_row(path, line, dict(zip(header, cells, strict=True)))


def _table_row(path: Path, line: int, cells: Mapping[str, object]) -> Raw:
    try:
        return RawRow(line=line, columns={name: _decode_cell(cell) for name, cell in cells.items()})
    except _RepeatedKeyError as error:
        return Fault(file=str(path), line=line, reason=str(error))


def _decode_cell(cell: object) -> object:
    """Read JSON that a table carries as text: a cell that is a JSON array of objects, or a list of such texts.

    Any other cell comes back as it is: ``"[INST] hi"`` is plain text.
    """
    if isinstance(cell, str) and re.match(r"\s*\[\s*\{", cell):
        try:
            return _parse_json(cell)
        except _RepeatedKeyError:
            raise
        except ValueError:
            return cell
    if isinstance(cell, list):
        return [_decode_item(item) for item in cast("list[object]", cell)]
    return cell


def _decode_item(item: object) -> object:
    if isinstance(item, str) and item.lstrip().startswith("{"):
        try:
            return _parse_json(item)
        except _RepeatedKeyError:
            raise
        except ValueError:
            return item
    return item


def _table_rows(path: Path, batches: Iterable[Any], *, start: int = 0) -> Iterator[Raw]:
    number = start
    for batch in batches:
        for row in cast("list[dict[str, object]]", batch.to_pylist()):
            number += 1
            yield _table_row(path, number, row)


def _read_parquet(path: Path) -> Iterator[Raw]:
    try:
        with path.open("rb") as source:
            file: Any = arrow_parquet.ParquetFile(source)
            yield from _table_rows(path, file.iter_batches())
    except _ARROW_DAMAGE as error:
        raise _unreadable(path, f"not a whole Parquet file: {error}") from error


def _read_folder(path: Path) -> Iterator[Raw]:
    """A folder written by ``Dataset.save_to_disk``: Arrow stream files listed in ``state.json``."""
    try:
        if (path / "dataset_dict.json").is_file():
            splits = cast("dict[str, list[str]]", json.loads((path / "dataset_dict.json").read_text("utf-8")))["splits"]
            raise _unreadable(path, "it holds several splits: name one, " + " or ".join(f"{path}/{s}" for s in splits))
        state = cast("dict[str, Any]", json.loads((path / "state.json").read_text("utf-8")))
        names = [cast("str", entry["filename"]) for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, "the folder has no valid state.json, so save_to_disk did not write it") from error
    return _arrow_rows(path, names)


def _arrow_rows(path: Path, names: list[str]) -> Iterator[Raw]:
    number = 0
    for name in names:
        try:
            with (path / name).open("rb") as source:
                stream: Any = arrow_ipc.open_stream(source)
                for row in _table_rows(path, stream, start=number):
                    number = row.line
                    yield row
        except _ARROW_DAMAGE as error:
            raise _unreadable(path / name, f"not a whole Arrow file: {error}") from error


_READERS: dict[str, Callable[[Path], Iterator[Raw]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
