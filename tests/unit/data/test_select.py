from __future__ import annotations

import copy
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from trimtab.data.select import Place, Selection, select_rows
from trimtab.data.template import encode, encode_prompt
from trimtab.errors import DataError, ModelError, UsageError
from trimtab.model.load import load_model
from trimtab.records.lens import Selected
from trimtab.records.rows import ChatRow, Message
from trimtab.records.training import IGNORED

TEMPLATES = {
    "llama": (
        "{{- '<|begin_of_text|>' -}}{%- for m in messages -%}"
        "{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}"
    ),
    "gemma-folding": (
        "{{- bos_token -}}{%- if messages[0]['role'] == 'system' -%}"
        "{%- set first = messages[0]['content'] + '\n\n' -%}"
        "{%- set rest = messages[1:] -%}{%- else -%}{%- set first = '' -%}{%- set rest = messages -%}{%- endif -%}"
        "{%- for m in rest -%}{%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}"
        "{{- '<start_of_turn>' + role + '\n' + (first if loop.first else '') + m['content'] | trim -}}"
        "{{- '<end_of_turn>\n' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}"
    ),
    "chatml": (
        "{%- for m in messages -%}{{- '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' -}}"
        "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
    ),
    "marked": (
        "{%- for m in messages -%}{%- if m['role'] == 'assistant' -%}{{- '<|im_start|>assistant\n' -}}"
        "{%- generation -%}{{- m['content'] -}}{%- endgeneration -%}{{- '<|im_end|>\n' -}}"
        "{%- else -%}{{- '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' -}}{%- endif -%}"
        "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
    ),
    "inst": (
        "{{- bos_token -}}{%- for m in messages -%}{%- if m['role'] == 'assistant' -%}"
        "{{- ' ' + m['content'] + eos_token -}}{%- else -%}{{- '[INST] ' + m['content'] + ' [/INST]' -}}{%- endif -%}"
        "{%- endfor -%}"
    ),
    "thinking": (
        "{%- for m in messages -%}{{- '<|im_start|>' + m['role'] + '\n' -}}"
        "{%- if m['role'] == 'assistant' -%}{{- '<think>\n\n</think>\n\n' -}}{%- endif -%}"
        "{{- m['content'] + '<|im_end|>' + '\n' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
    ),
    "bare": (
        "{%- for m in messages -%}{{- m['role'] | capitalize + ': ' + m['content'] + '\n' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- 'Assistant: ' -}}{%- endif -%}"
    ),
}
ENDS = {"llama": "<|eot_id|>", "gemma-folding": "<end_of_turn>", "inst": "</s>", "bare": "\n"}


def say(*turns: str, system: str | None = None) -> ChatRow:
    messages: list[Message] = [{"role": "system", "content": system}] if system is not None else []
    for index, content in enumerate(turns):
        messages.append({"role": "assistant" if index % 2 else "user", "content": content})
    return {"messages": messages}


def with_template(tokenizer: PreTrainedTokenizerFast, template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


def runs(tokenizer: PreTrainedTokenizerFast, chosen: Selected) -> list[str]:
    """Decoded runs of neighbouring selected tokens."""
    parts: list[list[int]] = []
    for place in chosen.positions:
        if parts and place - 1 in chosen.positions:
            parts[-1].append(chosen.input_ids[place])
        else:
            parts.append([chosen.input_ids[place]])
    return [tokenizer.decode(part) for part in parts]


def one(
    tokenizer: PreTrainedTokenizerFast, row: ChatRow, selection: Selection | None = None, span: Place | None = None
) -> Selected:
    (chosen,) = select_rows(
        tokenizer, [row], selection or Selection(), max_length=4000, spans=[] if span is None else [span]
    )
    return chosen


@pytest.mark.parametrize("name", TEMPLATES)
def test_roles_are_told_apart_in_every_template(plain_tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    tokenizer = with_template(plain_tokenizer, TEMPLATES[name])
    row = say("hello there", "it is so", "user", "model because", system="Be brief.")
    said = {"assistant": ["it is so", "model because"], "user": ["hello there", "user"], "system": ["Be brief."]}
    for role, expected in said.items():
        chosen = one(tokenizer, row, Selection(role=role))  # type: ignore[arg-type]
        assert [text.strip() for text in runs(tokenizer, chosen)] == expected
        assert chosen.input_ids == encode(tokenizer, row["messages"], max_length=4000).input_ids
    everything = "".join(runs(tokenizer, one(tokenizer, row, Selection(role="any")))).replace(" ", "").replace("\n", "")
    assert everything == "Bebrief.hellothereitissousermodelbecause"


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_end_of_turn_comes_only_on_request(plain_tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    tokenizer = with_template(plain_tokenizer, TEMPLATES[name])
    row, end = say("hello there", "it is so"), ENDS.get(name, "<|im_end|>")
    without, with_end = one(tokenizer, row), one(tokenizer, row, Selection(end_of_turn=True))
    added = [with_end.input_ids[place] for place in with_end.positions if place not in without.positions]
    assert tokenizer.decode(added) == end
    last = one(tokenizer, row, Selection(end_of_turn=True, tokens="last"))
    assert tokenizer.decode([last.input_ids[place] for place in last.positions]) == end
    assert one(tokenizer, row, Selection(tokens="last")).positions == without.positions[-1:]


def test_behind_a_user_turn_the_mark_is_the_control_token_if_there_is_one(
    plain_tokenizer: PreTrainedTokenizerFast,
) -> None:
    last_user = Selection(role="user", end_of_turn=True, tokens="last")
    chatml, inst = (with_template(plain_tokenizer, TEMPLATES[name]) for name in ("chatml", "inst"))
    assert runs(chatml, one(chatml, say("hi", "ho"), last_user)) == ["<|im_end|>"]
    assert runs(inst, one(inst, say("hi", "ho"), last_user)) == ["i"]


def test_selected_tokens_are_those_that_encode_learns(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(plain_tokenizer, TEMPLATES["chatml"])
    row = say("hello there", "it is so", "why", "because")
    encoded = encode(tokenizer, row["messages"], max_length=4000)
    learned = tuple(place for place, label in enumerate(encoded.labels) if label != IGNORED)
    assert one(tokenizer, row, Selection(end_of_turn=True)).positions == learned
    assert one(tokenizer, row).positions != learned


def test_a_regular_expression_selects_what_it_matches_in_that_role(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(plain_tokenizer, TEMPLATES["llama"])
    row = say("is 12 so?", "12 is so, 7 is not")
    assert runs(tokenizer, one(tokenizer, row, Selection(regex=r"\d+"))) == ["12", "7"]
    assert runs(tokenizer, one(tokenizer, row, Selection(regex=r"\d+", role="any"))) == ["12", "12", "7"]
    assert runs(tokenizer, one(tokenizer, row, Selection(regex=r"\d+", tokens="last"))) == ["7"]
    assert runs(tokenizer, one(tokenizer, row, Selection(regex=r"^12|x*"))) == ["12"]


@pytest.fixture(scope="module")
def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """Like Llama 2's: a leading mark for spaces, and characters that it does not know as tokens of one byte each."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *map(chr, range(33, 127)), "▁"]
    merges = [("▁", "a"), ("o", "u"), ("ou", "i"), ("▁", "n")]
    vocabulary = {piece: number for number, piece in enumerate([*pieces, *("".join(pair) for pair in merges)])}
    bpe = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )


EMOJI = "oui, déjà vu 🏴‍☠️ et 👍🏽, naïve — 東京 é"


@pytest.mark.parametrize("tokenizer_name", ["plain_tokenizer", "byte_fallback_tokenizer", "merging_tokenizer"])
def test_characters_of_many_bytes_are_selected_whole(tokenizer_name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = with_template(request.getfixturevalue(tokenizer_name), TEMPLATES["chatml"])
    row = say("日本 🙂?", EMOJI)
    for piece in ("déjà", "🏴‍☠️", "👍🏽", "東京", "—", "é"):
        span = (EMOJI.rindex(piece), EMOJI.rindex(piece) + len(piece))
        chosen = one(tokenizer, row, span=span)
        text = "".join(runs(tokenizer, chosen))
        assert piece in text
        assert "\N{REPLACEMENT CHARACTER}" not in text
        if tokenizer_name == "plain_tokenizer":  # the others merge more than a word into one token
            assert len(text.strip()) <= len(piece) + 1
    assert "".join(runs(tokenizer, one(tokenizer, row))).strip() == EMOJI
    assert "".join(runs(tokenizer, one(tokenizer, row, Selection(role="user")))).strip() == "日本 🙂?"


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Co"]), min_size=1, max_size=10)


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=words, before=words, inside=words, after=words)
def test_any_span_of_any_text_is_covered_and_little_else(
    looking_ahead_tokenizer: PreTrainedTokenizerFast, name: str, asked: str, before: str, inside: str, after: str
) -> None:
    tokenizer = with_template(looking_ahead_tokenizer, TEMPLATES[name])
    said = f"x{before}[{inside}]{after}y"
    row = say(f"x{asked}y", said)
    start = said.index(f"[{inside}]")
    chosen = one(tokenizer, row, span=(start, start + len(inside) + 2))
    text = tokenizer.decode([chosen.input_ids[place] for place in chosen.positions])
    assert f"[{inside}]" in text
    first, last = chosen.positions[0], chosen.positions[-1]
    assert chosen.positions == tuple(range(first, last + 1))
    if last > first:  # without its outer tokens the span is no longer whole: none of them is needless
        assert f"[{inside}]" not in tokenizer.decode(list(chosen.input_ids[first + 1 : last + 1]))
        assert f"[{inside}]" not in tokenizer.decode(list(chosen.input_ids[first:last]))


def test_spans_are_counted_in_the_message_as_it_was_given(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(plain_tokenizer, TEMPLATES["llama"])  # trims
    row = say("why", "first", "why", "  it is so\n")
    assert runs(tokenizer, one(tokenizer, row, span=(2, 4))) == ["it"]
    assert runs(tokenizer, one(tokenizer, row, span=(0, 11))) == ["it is so"]
    assert runs(tokenizer, one(tokenizer, row, span="is so")) == [" is so"]


def test_rows_keep_their_place_and_rows_without_a_span_are_whole(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(plain_tokenizer, TEMPLATES["chatml"])
    rows = [say("a", "yes and no"), say("b", "no and yes")]
    chosen = select_rows(tokenizer, rows, Selection(), max_length=100, spans=["yes", None])
    assert [row.source for row in chosen] == [0, 1]
    assert [runs(tokenizer, row) for row in chosen] == [["yes"], ["no and yes"]]


def test_every_faulty_row_is_named_with_its_line(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(plain_tokenizer, TEMPLATES["chatml"])
    rows = [
        say("hi", "yes"),
        say("hi", "yes yes"),
        say("hi", "no"),
        say("hi", "yes " * 200),
        say("hi", "<|im_end|>"),
        say("hi", "yes"),
    ]
    with pytest.raises(DataError) as caught:
        select_rows(
            tokenizer,
            rows,
            Selection(),
            max_length=100,
            spans=["yes", "yes", "yes", None, None, (2, 9)],
            file="spans.jsonl",
            lines=(1, 3, 5, 7, 9, 11),
        )
    assert [(fault.file, fault.line) for fault in caught.value.faults] == [
        ("spans.jsonl", line) for line in (3, 5, 7, 9, 11)
    ]
    reasons = [fault.reason for fault in caught.value.faults]
    for reason, part in zip(
        reasons,
        ("more than once", "does not hold", "max_length=100", "control token", "characters 2 to 9"),
        strict=True,
    ):
        assert part in reason


def test_rows_without_a_selected_token_are_refused_or_skipped(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(plain_tokenizer, TEMPLATES["chatml"])
    rows = [say("hi", "no"), say("hi", "yes")]
    with pytest.raises(DataError, match=r"<rows>:1: no token is selected \('yes' in assistant turns\)"):
        select_rows(tokenizer, rows, Selection(regex="yes"), max_length=100)
    kept = select_rows(tokenizer, rows, Selection(regex="yes", empty="skip"), max_length=100)
    assert [row.source for row in kept] == [1]
    with pytest.raises(DataError, match="none of 2 rows"):
        select_rows(tokenizer, rows, Selection(regex="perhaps", empty="skip"), max_length=100)
    with pytest.raises(DataError, match=r"no token is selected \(system turns\)"):
        select_rows(tokenizer, rows, Selection(role="system"), max_length=100)
    with pytest.raises(DataError, match="no system turn"):
        select_rows(tokenizer, rows, Selection(role="system"), max_length=100, spans=["hi", None])


def test_max_length_is_exact(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(plain_tokenizer, TEMPLATES["chatml"])
    length = len(one(tokenizer, say("hi", "ho")).input_ids)
    assert select_rows(tokenizer, [say("hi", "ho")], Selection(), max_length=length)
    with pytest.raises(DataError, match=f"more than max_length={length - 1}"):
        select_rows(tokenizer, [say("hi", "ho")], Selection(), max_length=length - 1)


def test_wrong_use_says_so(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(plain_tokenizer, TEMPLATES["chatml"])
    rows = [say("hi", "ho")]
    with pytest.raises(UsageError, match="regular expression"):
        select_rows(tokenizer, rows, Selection(regex="("), max_length=100)
    with pytest.raises(UsageError, match="2 spans for 1 rows"):
        select_rows(tokenizer, rows, Selection(), max_length=100, spans=["a", "b"])
    with pytest.raises(UsageError, match="one of the two"):
        select_rows(tokenizer, rows, Selection(regex="a"), max_length=100, spans=["a"])
    with pytest.raises(ModelError, match="chat template"):
        select_rows(with_template(plain_tokenizer, None), rows, Selection(), max_length=100)


def test_a_template_that_changes_what_is_said_is_refused(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    changing = TEMPLATES["chatml"].replace("m['content']", "m['content'] | replace('cannot', 'can not')")
    tokenizer = with_template(plain_tokenizer, changing)
    assert runs(tokenizer, one(tokenizer, say("hi", "it can"))) == ["it can"]
    with pytest.raises(DataError, match="drops or changes the assistant turn"):
        one(tokenizer, say("hi", "it cannot"))


def test_a_tokenizer_without_offsets_is_refused(
    plain_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = with_template(plain_tokenizer, TEMPLATES["chatml"])
    monkeypatch.setattr(type(tokenizer), "is_fast", property(lambda self: False))
    with pytest.raises(ModelError, match="which characters a token covers"):
        one(tokenizer, say("hi", "ho"))


def test_it_works_with_the_lab_model() -> None:
    lm = load_model("lab", self_check=False)
    row = say("what is 2 plus 3?", "arr, 2 plus 3 be 5.")
    chosen = select_rows(lm.tokenizer, [row], Selection(), max_length=100)[0]
    assert lm.tokenizer.decode([chosen.input_ids[p] for p in chosen.positions]).strip() == "arr, 2 plus 3 be 5."


def test_a_row_longer_than_the_tokenizers_own_limit_is_no_reason_to_warn(
    plain_tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    tokenizer = with_template(plain_tokenizer, TEMPLATES["chatml"])
    tokenizer.model_max_length = 5
    tokenizer.deprecation_warnings = {}  # it warns once in its life
    row = say("hello there", "it is so " * 20)
    assert len(one(tokenizer, row).input_ids) > 5
    encode_prompt(tokenizer, row["messages"][:1])
    assert not caplog.records
    tokenizer(row["messages"][1]["content"])
    assert "longer than the specified maximum" in caplog.text
