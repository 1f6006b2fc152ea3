from __future__ import annotations

import csv
import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from datasets.utils.logging import disable_progress_bar
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.data.read import read_chat, read_preferences, read_prompts, write_jsonl
from trimtab.errors import DataError
from trimtab.records.rows import ChatRow, Fit, HeldOut, Tune

disable_progress_bar()

USER = {"role": "user", "content": "Why?"}
ANSWER = {"role": "assistant", "content": "Because."}
SYSTEM = {"role": "system", "content": "Be brief."}
GOOD: list[dict[str, Any]] = [
    {"messages": [USER, ANSWER]},
    {"messages": [SYSTEM, USER, ANSWER, {"role": "user", "content": "Ünï “” \u2028 ☠"}, ANSWER]},
]


def as_jsonl(rows: list[dict[str, Any]], folder: Path) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def as_jsonl_gz(rows: list[dict[str, Any]], folder: Path) -> Path:
    path = folder / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(as_jsonl(rows, folder).read_bytes()))
    return path


def as_json(rows: list[dict[str, Any]], folder: Path) -> Path:
    path = folder / "rows.json"
    path.write_text("\ufeff\n" + json.dumps(rows, indent=2), encoding="utf-8")
    return path


def as_json_lines_in_json(rows: list[dict[str, Any]], folder: Path) -> Path:
    return as_jsonl(rows, folder).rename(folder / "lines.json")


def as_csv(rows: list[dict[str, Any]], folder: Path) -> Path:
    path = folder / "rows.csv"
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for row in rows:
            writer.writerow({key: cell if isinstance(cell, str) else json.dumps(cell) for key, cell in row.items()})
    return path


def as_parquet(rows: list[dict[str, Any]], folder: Path) -> Path:
    path = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=1)
    return path


def as_folder(rows: list[dict[str, Any]], folder: Path) -> Path:
    path = folder / "rows"
    Dataset.from_list(rows).save_to_disk(path, num_shards=min(2, len(rows)))
    return path


WRITERS: list[Callable[[list[dict[str, Any]], Path], Path]] = [
    as_jsonl,
    as_jsonl_gz,
    as_json,
    as_json_lines_in_json,
    as_csv,
    as_parquet,
    as_folder,
]
every_format = pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)


def one(row: dict[str, Any] | str, folder: Path) -> Path:
    path = folder / "rows.jsonl"
    path.write_text(row if isinstance(row, str) else json.dumps(row) + "\n", encoding="utf-8")
    return path


def reasons(path: Path, read: Callable[..., object] = read_chat) -> list[tuple[int, str]]:
    with pytest.raises(DataError) as caught:
        read(path)
    assert all(fault.file == str(path) for fault in caught.value.faults)
    assert caught.value.exit_code == 3
    return [(fault.line, fault.reason) for fault in caught.value.faults]


@every_format
def test_messages_from_every_format(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(GOOD, tmp_path)
    rows = read_chat(path, split=HeldOut)
    assert list(rows) == GOOD
    assert rows.split is HeldOut
    assert rows.source == str(path)
    assert rows.lines == ((2, 3) if path.suffix == ".csv" else (1, 2))


@every_format
def test_prompt_and_completion_from_every_format(write: Callable[..., Path], tmp_path: Path) -> None:
    text = {"prompt": "The sky,\nis", "completion": " [INST] blue."}
    turns = {"prompt": [SYSTEM, USER], "completion": [ANSWER]}
    assert list(read_chat(write([text], tmp_path))) == [
        {"messages": [{"role": "user", "content": "The sky,\nis"}, {"role": "assistant", "content": "[INST] blue."}]}
    ]
    other = tmp_path / "turns"
    other.mkdir()
    assert list(read_chat(write([turns], other))) == [{"messages": [SYSTEM, USER, ANSWER]}]


@every_format
def test_preferences_from_every_format(write: Callable[..., Path], tmp_path: Path) -> None:
    no = {"role": "assistant", "content": "No."}
    explicit = {"prompt": [USER], "chosen": [ANSWER], "rejected": [no]}
    implicit = {"chosen": [USER, ANSWER], "rejected": [USER, no]}
    for name, row in (("explicit", explicit), ("implicit", implicit)):
        (tmp_path / name).mkdir()
        rows = read_preferences(write([row], tmp_path / name), split=Tune)
        assert list(rows) == [explicit]
        assert rows.split is Tune


def test_json_features_of_a_datasets_folder(tmp_path: Path) -> None:
    """Cells that hold JSON as text, as ``datasets`` stores mixed columns."""
    path = tmp_path / "rows"
    Dataset.from_dict({"messages": [[json.dumps(turn) for turn in GOOD[0]["messages"]]]}).save_to_disk(path)
    assert list(read_chat(path)) == GOOD[:1]


def test_lines_count_blank_ones_and_the_default_split_is_fit(tmp_path: Path) -> None:
    path = one(f"\n{json.dumps(GOOD[0])}\r\n   \n{json.dumps(GOOD[0])}", tmp_path)
    rows = read_chat(str(path))
    assert rows.lines == (2, 4)
    assert rows.split is Fit


def test_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD[0]).encode() + b"\n")
    assert list(read_chat(path)) == GOOD[:1]
    path.write_bytes(json.dumps(GOOD[0]).encode("utf-16"))
    assert reasons(path) == [(1, "the file is UTF-16, not UTF-8: save it as UTF-8")]


BAD: list[tuple[str, object, str]] = [
    ("null", None, "no messages, or prompt and completion; columns found: none"),
    ("text", "hi", "messages must be a list of turns, not text"),
    ("python text", "[{'role': 'user'}]", "write it with json.dumps"),
    ("object", {}, "messages must be a list of turns, not an object"),
    ("no turns", [], "messages is empty"),
    ("turn is text", ["hi"], "messages[0] must be an object with role and content, not text"),
    ("no role", [{"content": "a"}], "messages[0]: role None is not one of system, user, assistant"),
    ("unknown role", [USER, {"role": "gpt", "content": "a"}], "messages[1]: role 'gpt' is not one of"),
    ("list as role", [{"role": ["user"], "content": "a"}], "role ['user'] is not one of"),
    ("no content", [USER, {"role": "assistant"}], "messages[1]: content must be text, not null"),
    ("number", [{"role": "user", "content": 3}, ANSWER], "messages[0]: content must be text, not 3"),
    ("parts", [{"role": "user", "content": [{"type": "image"}]}, ANSWER], "content must be text, not a list"),
    ("blank", [USER, {"role": "assistant", "content": " \n"}], "messages[1]: content is empty"),
    ("tool", [USER, {"role": "assistant", "content": "a", "tool_calls": [{}]}], "tool calls are not supported"),
    ("surrogate", [{"role": "user", "content": "\ud800"}, ANSWER], "half of a surrogate pair"),
    ("two systems", [SYSTEM, SYSTEM, USER, ANSWER], "more than one system turn"),
    ("late system", [USER, SYSTEM, ANSWER], "the system turn must come first"),
    ("assistant first", [ANSWER, USER, ANSWER], "begins with the assistant"),
    ("system, assistant", [SYSTEM, ANSWER], "begins with the assistant"),
    ("no assistant", [USER], "there is no assistant turn to learn"),
    ("only system", [SYSTEM], "there is no assistant turn to learn"),
    ("user last", [USER, ANSWER, USER], "the last turn must be the assistant's, not the user's"),
]


@pytest.mark.parametrize(("messages", "reason"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_wrong_turns_are_refused_with_the_reason(messages: object, reason: str, tmp_path: Path) -> None:
    ((line, found),) = reasons(one({"messages": messages}, tmp_path))
    assert line == 1
    assert reason in found


BROKEN: list[tuple[str, bytes, str]] = [
    ("half-written", b'{"messages": [{"role": "us', "not valid JSON: Unterminated string starting at at column"),
    ("not an object", b"[1]\n", "a row must be a JSON object, not an array"),
    ("null", b"null\n", "a row must be a JSON object, not null"),
    ("repeated key", b'{"messages": [], "messages": []}\n', "the key 'messages' stands twice"),
    ("invalid UTF-8", b'{"messages": "\xff"}\n', "invalid UTF-8 at byte 15 of the line"),
    ("too deep", b'{"a":' + b"[" * 200_000 + b"\n", "nested too deeply"),
    ("other columns", b'{"question": "a", "answer": "b"}\n', "columns found: question, answer"),
    ("plain text", b'{"text": "a"}\n', "plain `text` does not say what the assistant said"),
    ("half a pair", b'{"prompt": "a"}\n', "no messages, or prompt and completion; columns found: prompt"),
    ("blank completion", b'{"prompt": "a", "completion": " "}\n', "completion: content is empty"),
]


@pytest.mark.parametrize(("data", "reason"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_broken_lines_are_refused_with_the_reason(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(GOOD[0]).encode() + b"\n" + data)
    ((line, found),) = reasons(path)
    assert line == 2
    assert reason in found
    assert ("half-written?" in found) == (not data.endswith(b"\n"))


def test_every_fault_is_in_one_list_or_skipped_by_choice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "rows.jsonl"
    good = json.dumps(GOOD[0])
    path.write_text(f'{good}\n{{"messages": []}}\nnonsense\n{good}\n{{"messages": [', encoding="utf-8")
    found = reasons(path)
    assert [line for line, _ in found] == [2, 3, 5]
    with pytest.raises(DataError, match=r"3 of 5 rows cannot be used") as caught:
        read_chat(path)
    assert f"{path}:3: not valid JSON" in str(caught.value)
    assert "--skip-bad-rows" in caught.value.todo
    with caplog.at_level(logging.WARNING, logger="trimtab"):
        rows = read_chat(path, skip_bad=True)
    assert list(rows) == GOOD[:1] * 2
    assert rows.lines == (1, 4)
    assert "skipped 3 of 5 rows" in caplog.text
    assert all(f"{path}:{line}: {reason}" in caplog.text for line, reason in found)


def test_nothing_is_left_to_skip(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 1 rows cannot be used") as caught:
        read_chat(one("{", tmp_path), skip_bad=True)
    assert "skip_bad" not in caught.value.todo


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.jsonl", b""), ("a.jsonl", b" \n\n"), ("a.json", b"[]"), ("a.json", b""), ("a.csv", b""), ("a.csv", b"x,y\n")],
)
def test_an_empty_file_is_refused(name: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    for skip_bad in (False, True):
        with pytest.raises(DataError, match="holds no rows"):
            read_chat(path, skip_bad=skip_bad)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read_chat(tmp_path / "missing.jsonl")
    (tmp_path / "rows.txt").write_text("x")
    with pytest.raises(DataError, match=r"the format \.txt is not read") as caught:
        read_chat(tmp_path / "rows.txt")
    assert ".parquet" in caught.value.allowed
    with pytest.raises(DataError, match=r"no valid state\.json"):
        read_chat(tmp_path)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="not a whole Parquet file"):
        read_chat(tmp_path / "rows.parquet")


def test_a_folder_of_splits_names_them(tmp_path: Path) -> None:
    DatasetDict({"train": Dataset.from_list(GOOD[:1]), "test": Dataset.from_list(GOOD[1:])}).save_to_disk(
        tmp_path / "d"
    )
    with pytest.raises(DataError, match=r"several splits: name one, .*/d/train or .*/d/test"):
        read_chat(tmp_path / "d")
    assert list(read_chat(tmp_path / "d" / "test")) == GOOD[1:]


def test_a_torn_arrow_file_is_refused(tmp_path: Path) -> None:
    path = as_folder(GOOD[:1], tmp_path)
    (shard,) = path.glob("*.arrow")
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(DataError, match="not a whole Arrow file"):
        read_chat(path)


def test_a_torn_archive_keeps_the_lines_before_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    data = gzip.compress("".join(json.dumps(row) + "\n" for row in GOOD * 50).encode())
    path.write_bytes(data[:-20])
    with pytest.raises(DataError) as caught:
        read_chat(path)
    assert "damaged or cut off" in caught.value.faults[-1].reason
    path.write_bytes(b"not gzip at all")
    assert reasons(path)[0][0] == 1


def test_a_row_of_one_megabyte_is_read_from_every_text_format(tmp_path: Path) -> None:
    long = {"messages": [USER, {"role": "assistant", "content": "word " * 220_000 + "end"}]}
    for write in (as_jsonl, as_json, as_csv, as_parquet):
        assert list(read_chat(write([GOOD[0], long], tmp_path))) == [GOOD[0], long]
    assert csv.field_size_limit() == 131072


def test_columns_that_are_not_used_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{**GOOD[0], "id": "a", "score": 1}, {**GOOD[0], "id": "b", "score": None}]
    read_chat(as_jsonl(rows, tmp_path))
    assert "columns that are not used: id (2 rows), score (1 rows)" in caplog.text
    caplog.clear()
    read_chat(as_jsonl(GOOD, tmp_path))
    assert not caplog.records


def test_extra_keys_of_a_turn_do_not_come_along(tmp_path: Path) -> None:
    turn = {**USER, "name": "Ada", "tool_calls": None}
    assert list(read_chat(one({"messages": [turn, ANSWER]}, tmp_path))) == GOOD[:1]


CSV: list[tuple[str, str, list[tuple[int, str]]]] = [
    ("repeated column", "messages,messages\na,b\n", [(1, "column 'messages' stands twice in the header")]),
    ("cells missing", "prompt,completion\na,b\nc\nd,e\n", [(3, "1 cells where the header has 2")]),
    ("line of a record", 'prompt,completion\n"a\nb",c\nd\n', [(4, "1 cells where the header has 2")]),
    ("open quote", 'prompt,completion\na,b\n"c,d\n', [(3, "not valid CSV: unexpected end of data")]),
    ("not JSON", 'messages\n"[{""role"": ""us"\n', [(2, "messages must be a list of turns, not text")]),
    ("repeated key", 'messages\n"[{""role"":""user"",""role"":""user""}]"\n', [(2, "the key 'role' stands twice")]),
    ("Python text", "messages\n\"[{'role': 'user', 'content': 'a'}]\"\n", [(2, "write it with json.dumps")]),
    ("empty cell", "prompt,completion\na,\n", [(2, "completion: content is empty")]),
]


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in CSV], ids=[case[0] for case in CSV])
def test_broken_csv(text: str, expected: list[tuple[int, str]], tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8", newline="")
    found = reasons(path)
    assert [line for line, _ in found] == [line for line, _ in expected]
    assert all(want in got for (_, got), (_, want) in zip(found, expected, strict=True))


def test_csv_that_is_not_utf8(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"prompt,completion\na,b\nc\xff,d\ne,f\n")
    assert reasons(path) == [(3, "invalid UTF-8 at byte 2 of the line")]
    assert read_chat(path, skip_bad=True).lines == (2, 4)


def test_a_broken_json_array(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"messages": [}]', encoding="utf-8")
    assert reasons(path) == [(1, "not valid JSON: Expecting value at column 16")]
    path.write_text(json.dumps([GOOD[0], 3]), encoding="utf-8")
    assert reasons(path) == [(2, "a row must be a JSON object, not a number")]


def test_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": " Why? ", "id": 7}, {"prompt": [SYSTEM, USER, ANSWER, USER]}]
    assert list(read_prompts(as_jsonl(rows, tmp_path), split=HeldOut)) == [
        {"prompt": [USER], "id": "7"},
        {"prompt": [SYSTEM, USER, ANSWER, USER]},
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [USER]}, "no prompt (and id); columns found: messages"),
        ({"prompt": [USER, ANSWER]}, "the last turn of a prompt must be the user's, not the assistant's"),
        ({"prompt": [SYSTEM]}, "there is only a system turn"),
        ({"prompt": "a", "id": [1]}, "id must be text or a whole number, not a list"),
        ({"prompt": "a", "id": True}, "id must be text or a whole number, not True"),
        ({"prompt": "a", "id": "first"}, "id 'first' stands in an earlier row too"),
    ],
)
def test_wrong_prompts(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = as_jsonl([{"prompt": "x", "id": "first"}, row], tmp_path)
    assert reasons(path, read_prompts) == [(2, reason)]


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def said(content: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": content}]


PAIRS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "explicit text",
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
        {"prompt": turns("The sky is"), "chosen": said("blue."), "rejected": said("green.")},
    ),
    (
        "implicit text",
        {"chosen": "The sky is blue.", "rejected": "The sky is bland."},
        {"prompt": turns("The sky is"), "chosen": said("blue."), "rejected": said("bland.")},
    ),
    (
        "implicit transcript",
        {
            "chosen": "\n\nHuman: Is it\n\nso?\n\nAssistant: It is.\n\nHuman: Why?\n\nAssistant: Because A",
            "rejected": "\n\nHuman: Is it\n\nso?\n\nAssistant: It is.\n\nHuman: Why?\n\nAssistant: Because B",
        },
        {
            "prompt": turns("Is it\n\nso?", "It is.", "Why?"),
            "chosen": said("Because A"),
            "rejected": said("Because B"),
        },
    ),
    (
        "implicit turns of several rounds",
        {"chosen": turns("a", "b", "c", "d"), "rejected": turns("a", "b", "c", "e", "f", "g")},
        {
            "prompt": turns("a", "b", "c"),
            "chosen": said("d"),
            "rejected": [*said("e"), {"role": "user", "content": "f"}, *said("g")],
        },
    ),
    (
        "text prompt beside whole conversations",
        {"prompt": "a", "chosen": turns("a", "b"), "rejected": turns("a", "c")},
        {"prompt": turns("a"), "chosen": said("b"), "rejected": said("c")},
    ),
]


@pytest.mark.parametrize(("row", "expected"), [case[1:] for case in PAIRS], ids=[case[0] for case in PAIRS])
def test_preference_shapes(row: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    assert list(read_preferences(as_jsonl([row], tmp_path))) == [expected]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": "a"}, "no chosen and rejected (and prompt); columns found: chosen"),
        ({"chosen": "a b", "rejected": turns("a", "b")}, "must both be text or both be lists"),
        ({"chosen": "a b", "rejected": "a b"}, "chosen and rejected are the same"),
        ({"chosen": turns("a", "b"), "rejected": turns("a", "b")}, "chosen and rejected are the same"),
        ({"prompt": "p", "chosen": "a", "rejected": "a "}, "chosen and rejected are the same"),
        ({"chosen": "blue sky", "rejected": "green sky"}, "do not begin with the same words"),
        ({"chosen": "blueish", "rejected": "blue"}, "do not begin with the same words"),
        ({"chosen": turns("a", "b"), "rejected": turns("c", "b")}, "do not begin with the same turn"),
        ({"chosen": turns("a", "b"), "rejected": turns("a", "b", "c", "d")}, "chosen has no assistant turn of its own"),
        (
            {"chosen": turns("a", "b", "c", "d"), "rejected": turns("a", "b", "x", "d")},
            "chosen has no assistant turn of its own: the two sides answer different prompts",
        ),
        ({"prompt": turns("a"), "chosen": turns("b"), "rejected": said("c")}, "chosen has no assistant turn"),
        ({"prompt": "a", "chosen": " ", "rejected": "b"}, "chosen: content is empty"),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant:"},
            "rejected[1]: content is",
        ),
    ],
)
def test_wrong_preferences(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    ((line, found),) = reasons(as_jsonl([row], tmp_path), read_preferences)
    assert line == 1
    assert reason in found


content = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: bool(text.strip()))
conversations = st.builds(
    lambda system, rounds: {
        "messages": [
            *([{"role": "system", "content": system}] if system else []),
            *(turn for pair in rounds for turn in turns(*pair)),
        ]
    },
    st.none() | content,
    st.lists(st.tuples(content, content), min_size=1, max_size=3),
)


@settings(deadline=None, max_examples=60)
@given(rows=st.lists(conversations, min_size=1, max_size=4))
def test_written_rows_are_read_back(rows: list[ChatRow], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_jsonl(rows, path)
    back = read_chat(path)
    assert list(back) == rows
    assert back.lines == tuple(range(1, len(rows) + 1))


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".jsonl.gz", ".parquet"])
def test_no_bytes_crash_the_reader(data: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("bytes") / f"rows{suffix}"
    path.write_bytes(data)
    with pytest.raises(DataError):
        read_chat(path)


SHARED = Path(__file__).parents[4] / "shared" / "data"


@pytest.mark.skipif(not (SHARED / "hh_harmless_test.jsonl.gz").exists(), reason=f"no HH transcripts in {SHARED}")
def test_real_transcripts(caplog: pytest.LogCaptureFixture) -> None:
    path = SHARED / "hh_harmless_test.jsonl.gz"
    with pytest.raises(DataError) as caught:
        read_preferences(path)
    assert all("content is empty" in fault.reason for fault in caught.value.faults)
    rows = read_preferences(path, skip_bad=True)
    assert len(rows) + len(caught.value.faults) == 2312
    assert len(rows) >= 2300
    for row in rows:
        assert row["prompt"][-1]["role"] == "user"
        assert row["chosen"][0]["role"] == row["rejected"][0]["role"] == "assistant"


@pytest.mark.skipif(not (SHARED / "gsm8k_test.jsonl").exists(), reason=f"no gsm8k in {SHARED}")
def test_real_rows_of_another_shape_are_named(tmp_path: Path) -> None:
    source = SHARED / "gsm8k_test.jsonl"
    with pytest.raises(DataError, match="1319 of 1319 rows") as caught:
        read_chat(source)
    assert "columns found: question, answer" in caught.value.faults[0].reason
    path = tmp_path / "gsm8k.jsonl"
    lines = source.read_text(encoding="utf-8").splitlines()
    path.write_text(
        "".join(
            json.dumps({"prompt": row["question"], "completion": row["answer"]}) + "\n"
            for row in map(json.loads, lines)
        )
    )
    assert len(read_chat(path)) == 1319
