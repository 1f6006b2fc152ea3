"""Passages for graders: reference documents of the user, found by TF-IDF; or any search that the user passes.

Documents are text files (``.txt``, ``.md``) or rows with ``id`` and ``text`` in any format that Trimtab reads. They are
cut into passages of a few sentences. Nothing here leaves the machine.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from trimtab.data.raw import FORMATS, RawRow, read_raw
from trimtab.errors import DataError, Fault, UsageError
from trimtab.reward.claims import sentences

TEXT_FILES: Final = (".txt", ".md")
_ROW_FILES: Final = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".gz")
_WRAPPED: Final = re.compile(r"(?<=[^\n]{40})\n(?!\s|[-*+#|>]|\d+[.)])")
_ALLOWED: Final = f"a folder of {', '.join(TEXT_FILES)} files and files of rows, or one file of rows ({FORMATS})"


@dataclass(frozen=True, kw_only=True)
class Document:
    """A reference text that graders believe.

    Attributes:
        id: Its name; unique among documents.
        text: What it says.
    """

    id: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Passage:
    """Some sentences of a document.

    Attributes:
        source: Where they stand: a document's id, or an address.
        text: The sentences.
    """

    source: str
    text: str


@runtime_checkable
class Search(Protocol):
    """Finds passages about something."""

    @property
    def name(self) -> str:
        """Short name with everything that the results depend on; graders' verdicts are kept under it."""
        ...

    def __call__(self, query: str, k: int, /) -> Sequence[Passage]:
        """At most ``k`` passages, best first."""
        ...


class DocumentSearch:
    """Cosine of TF-IDF vectors of words and pairs of neighbouring words.

    Args:
        documents: What is searched.
        sentences_each: Sentences in a passage. Passages do not overlap.

    Raises:
        DataError: If no document holds a word.
    """

    def __init__(self, documents: Sequence[Document], *, sentences_each: int = 4) -> None:
        if sentences_each < 1:
            raise UsageError(f"sentences_each={sentences_each}", allowed="at least 1", todo="choose another number")
        self._passages = [passage for document in documents for passage in _cut(document, sentences_each)]
        self._vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+", sublinear_tf=True)
        try:
            texts = [passage.text for passage in self._passages]
            self._vectors = cast("csr_matrix[np.float64]", self._vectorizer.fit_transform(texts))
        except ValueError as error:
            raise DataError(
                f"{len(documents)} documents without a word in them",
                allowed="at least one document with text",
                todo="check the folder of documents",
            ) from error
        digest = hashlib.sha256()
        for document in documents:
            digest.update(
                f"{len(document.id)} {len(document.text)} {document.id}{document.text}".encode(errors="replace")
            )
        self.name = f"TF-IDF over {len(documents)} documents {digest.hexdigest()[:12]}, {sentences_each} sentences"

    def __call__(self, query: str, k: int, /) -> tuple[Passage, ...]:
        """As ``Search``; passages that share no word with the query are left out, ties go to the earlier one."""
        row = cast("csr_matrix[np.float64]", self._vectorizer.transform([query]))
        scores: NDArray[np.float64] = np.asarray((self._vectors @ row.T).toarray(), dtype=np.float64)[:, 0]
        best = np.argsort(-scores, kind="stable")[:k]
        return tuple(self._passages[int(place)] for place in best if scores[place] > 0)


def read_documents(path: str | Path) -> tuple[Document, ...]:
    """Read reference documents.

    Args:
        path: A folder, searched with all its folders: each text file is a document, named by its path in the folder;
            each file of rows holds one document per row, with ``id`` and ``text``. Or one file of rows.

    Raises:
        DataError: If there is none, a file cannot be read, or a row is malformed or repeats an id; with all faults.
    """
    root = Path(path)
    if not root.exists():
        raise DataError(
            f"{path} does not exist",
            allowed=_ALLOWED + "; rows with a text `text` and an `id` of their own",
            todo="check the path",
        )
    files = sorted(file for file in root.rglob("*") if _is_one(file)) if root.is_dir() else [root]
    first: dict[str, str] = {}
    documents: list[Document] = []
    faults: list[Fault] = []
    for file in files:
        for line, found in _read(file, root):
            if isinstance(found, Fault):
                faults.append(found)
                continue
            if found.id in first:
                reason = f"the id {found.id!r} stands in {first[found.id]} already"
                faults.append(Fault(file=str(file), line=line, reason=reason))
                continue
            first[found.id] = f"{file}:{line}"
            documents.append(found)
    if faults or not documents:
        raise DataError(
            f"{path}: {len(faults)} documents cannot be used" if faults else f"{path}: no documents",
            allowed=_ALLOWED + "; rows with a text `text` and an `id` of their own",
            todo="correct the listed rows" if faults else "check the path",
            faults=faults,
        )
    return tuple(documents)


def _is_one(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".") and file.suffix.lower() in TEXT_FILES + _ROW_FILES


def _read(file: Path, root: Path) -> Iterator[tuple[int, Document | Fault]]:
    if file.suffix.lower() in TEXT_FILES and file.exists():
        name = str(file.relative_to(root)) if file != root else file.name
        try:
            yield 1, Document(id=name, text=file.read_bytes().decode())
        except (OSError, UnicodeDecodeError) as error:
            yield 1, Fault(file=str(file), line=1, reason=f"it cannot be read as UTF-8 text: {error}")
        return
    for raw in read_raw(file):
        yield (raw.line, _document(file, raw) if isinstance(raw, RawRow) else raw)


def _document(file: Path, row: RawRow) -> Document | Fault:
    columns: Mapping[str, object] = row.columns
    name, text = columns.get("id"), columns.get("text")
    if isinstance(name, bool) or not isinstance(name, str | int):
        return Fault(file=str(file), line=row.line, reason="no id (text or a whole number)")
    if not isinstance(text, str) or not text.strip():
        return Fault(file=str(file), line=row.line, reason="no text")
    return Document(id=str(name), text=text)


def _cut(document: Document, sentences_each: int) -> Iterator[Passage]:
    """Passages; a line break that only wraps a long line is taken out first, because it ends no sentence."""
    text = _WRAPPED.sub(" ", document.text.replace("\r\n", "\n"))
    places = list(sentences(text))
    for start in range(0, len(places), sentences_each):
        first, last = places[start], places[min(start + sentences_each, len(places)) - 1]
        yield Passage(source=document.id, text=text[first[0] : last[1]])
