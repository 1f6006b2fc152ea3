"""What the type checkers must allow and refuse of captures; needless ignores are errors, as in ``wrong.py``."""

from __future__ import annotations

from pathlib import Path

from trimtab.data.select import Selection, select_rows
from trimtab.lens.spans import Spans
from trimtab.lens.store.read import Store
from trimtab.lens.store.write import CaptureSettings, Part, capture_store
from trimtab.model.host import Host
from trimtab.records.rows import ChatRow, Fit, Rows
from trimtab.records.site import Site


def a_capture_goes_from_rows_to_spans(host: Host, rows: Rows[ChatRow, Fit], folder: Path) -> Spans:
    selection = Selection(role="user", tokens="last")
    selected = select_rows(host.tokenizer, rows, selection, max_length=512, spans=[(0, 3), "yes", None])
    done = capture_store(host, selected, [Site(1)], folder, CaptureSettings(selection=selection), part=Part())
    assert done.complete
    return Store.open(folder, host).spans(Site(1), [0, 1])


def rows_are_tokenised_before_they_are_captured(host: Host, rows: Rows[ChatRow, Fit], folder: Path) -> None:
    capture_store(host, rows, [Site(1)], folder)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    capture_store(host, [], ["1"], folder)  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


def words_that_do_not_exist_are_refused(store: Store) -> None:
    Selection(role="narrator")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Selection(tokens="first")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    CaptureSettings(dtype="int8")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    CaptureSettings(shards=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    store.spans("2.resid_post")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
