from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from trimtab.data.template import encode, encode_prompt, encode_rows, has_template, messages_of, training_rows
from trimtab.errors import DataError, ModelError
from trimtab.records.rows import ChatRow, Fit, Message, Rows
from trimtab.records.training import IGNORED, Encoded, TrainingRow


@dataclass(frozen=True)
class Style:
    """A chat template and what it puts after an answer that the model must learn to say."""

    template: str
    end: str
    before: str = ""
    system: bool = True


LLAMA = (
    "{{- '<|begin_of_text|>' -}}{%- for m in messages -%}"
    "{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}"
)
GEMMA = (
    "{{- bos_token -}}{%- if messages[0]['role'] == 'system' -%}"
    "{{- raise_exception('System role not supported') -}}{%- endif -%}{%- for m in messages -%}"
    "{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}{%- endif -%}"
    "{%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}"
    "{{- '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}"
)
GEMMA_FOLDING = (
    "{{- bos_token -}}{%- if messages[0]['role'] == 'system' -%}{%- set first = messages[0]['content'] + '\n\n' -%}"
    "{%- set rest = messages[1:] -%}{%- else -%}{%- set first = '' -%}{%- set rest = messages -%}{%- endif -%}"
    "{%- for m in rest -%}{%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}"
    "{{- '<start_of_turn>' + role + '\n' + (first if loop.first else '') + m['content'] | trim + '<end_of_turn>\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}"
)
CHATML = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
ZEPHYR = (
    "{%- for m in messages -%}{{- '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}"
)
MARKED = (
    "{%- for m in messages -%}{%- if m['role'] == 'assistant' -%}{{- '<|assistant|>\n' -}}"
    "{%- generation -%}{{- m['content'] + eos_token -}}{%- endgeneration -%}{{- '\n' -}}"
    "{%- else -%}{{- '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}"
)
# The instruction form: no role header of its own, the answer follows the closing bracket.
INST = (
    "{{- bos_token -}}{%- for m in messages -%}{%- if m['role'] == 'assistant' -%}"
    "{{- ' ' + m['content'] + eos_token -}}{%- else -%}{{- '[INST] ' + m['content'] + ' [/INST]' -}}{%- endif -%}"
    "{%- endfor -%}"
)
# An empty thought before the answer, as hybrid reasoning models write it, on every turn.
THINKING = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m['role'] + '\n' -}}"
    "{%- if m['role'] == 'assistant' -%}{{- '<think>\n\n</think>\n\n' -}}{%- endif -%}"
    "{{- m['content'] + '<|im_end|>' + '\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
# Bare text: nothing is a control token, and the line end is the end-of-turn mark.
BARE = (
    "{%- for m in messages -%}{{- m['role'] | capitalize + ': ' + m['content'] + '\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'Assistant: ' -}}{%- endif -%}"
)

STYLES = {
    "llama": Style(LLAMA, "<|eot_id|>"),
    "gemma": Style(GEMMA, "<end_of_turn>", system=False),
    "gemma-folding": Style(GEMMA_FOLDING, "<end_of_turn>"),
    "chatml": Style(CHATML, "<|im_end|>"),
    "zephyr": Style(ZEPHYR, "</s>"),
    "marked": Style(MARKED, "</s>"),
    "inst": Style(INST, "</s>", before=" "),
    "thinking": Style(THINKING, "<|im_end|>", before="<think>\n\n</think>\n\n"),
    "bare": Style(BARE, "\n"),
}


def say(*turns: str, system: str | None = None) -> list[Message]:
    messages: list[Message] = [{"role": "system", "content": system}] if system is not None else []
    for index, content in enumerate(turns):
        messages.append({"role": "assistant" if index % 2 else "user", "content": content})
    return messages


def with_template(tokenizer: PreTrainedTokenizerFast, template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


def learned(tokenizer: PreTrainedTokenizerFast, encoded: Encoded) -> list[str]:
    """Decoded runs of learned tokens; checks that every label is its own token or ``IGNORED``."""
    runs: list[list[int]] = []
    inside = False
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        assert label in (token, IGNORED)
        if label != IGNORED:
            if not inside:
                runs.append([])
            runs[-1].append(token)
        inside = label != IGNORED
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize(
    ("style", "system"),
    [
        pytest.param(style, system, id=f"{name}-{'system' if system else 'no system'}")
        for name, style in STYLES.items()
        for system in ("Be brief.", None)
        if system is None or style.system
    ],
)
def test_only_answers_and_their_end_marks_are_learned(
    plain_tokenizer: PreTrainedTokenizerFast, style: Style, system: str | None
) -> None:
    tokenizer = with_template(plain_tokenizer, style.template)
    messages = say("hello there", "it is so", "why", "because", system=system)
    encoded = encode(tokenizer, messages, max_length=500, source=3)
    answers = [f"{style.before}{said}{style.end}" for said in ("it is so", "because")]
    assert learned(tokenizer, encoded) == answers
    assert encoded.source == 3
    whole = tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False)
    assert tokenizer.decode(list(encoded.input_ids)) == whole


@pytest.mark.parametrize("style", [pytest.param(s, id=name) for name, s in STYLES.items() if name != "bare"])
def test_ids_are_those_of_the_template(plain_tokenizer: PreTrainedTokenizerFast, style: Style) -> None:
    tokenizer = with_template(plain_tokenizer, style.template)
    messages = say("hello there", "it is so", "why", "because")
    direct = tokenizer.apply_chat_template([dict(m) for m in messages], return_dict=True)["input_ids"]
    assert list(encode(tokenizer, messages, max_length=500).input_ids) == direct
    prompt = tokenizer.apply_chat_template([dict(messages[0])], add_generation_prompt=True, return_dict=True)
    assert encode_prompt(tokenizer, messages[:1]) == prompt["input_ids"]


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
contents = words.map(lambda text: f"x{text}y" if not text.strip() or text != text.strip() else text)


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
@pytest.mark.parametrize("merging", [False, True], ids=["looking-ahead", "merging"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(contents, min_size=2, max_size=6).filter(lambda turns: len(turns) % 2 == 0))
def test_prompts_are_prefixes_and_masks_are_exact_on_any_text(
    looking_ahead_tokenizer: PreTrainedTokenizerFast,
    merging_tokenizer: PreTrainedTokenizerFast,
    style: Style,
    merging: bool,
    turns: list[str],
) -> None:
    tokenizer = with_template(merging_tokenizer if merging else looking_ahead_tokenizer, style.template)
    messages = say(*turns)
    encoded = encode(tokenizer, messages, max_length=5000)
    answers = "".join(f"{style.before}{said}{style.end}" for said in turns[1::2])
    assert "".join(learned(tokenizer, encoded)) == answers
    for index in range(1, len(messages), 2):
        prompt = encode_prompt(tokenizer, messages[:index])
        assert list(encoded.input_ids[: len(prompt)]) == prompt
        assert encoded.labels[len(prompt)] != IGNORED
        assert encoded.labels[len(prompt) - 1] == IGNORED


def test_an_answer_that_looks_like_a_piece_of_the_end_mark(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(plain_tokenizer, THINKING)
    for said in (">", "end", "think", "|"):
        encoded = encode(tokenizer, say("hi", said), max_length=100)
        assert learned(tokenizer, encoded) == [f"<think>\n\n</think>\n\n{said}<|im_end|>"]


def test_a_tokenizer_that_merges_over_the_border_is_cut_there(merging_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(merging_tokenizer, BARE)
    messages = say("is it so?", "yes", "is it so?", "yes")
    whole = tokenizer.apply_chat_template([dict(m) for m in messages], return_dict=True)["input_ids"]
    encoded = encode(tokenizer, messages, max_length=100)
    assert list(encoded.input_ids) != whole, "this tokenizer was meant to merge over the border"
    assert tokenizer.decode(list(encoded.input_ids)) == tokenizer.decode(whole)
    assert learned(tokenizer, encoded) == ["yes\n", "yes\n"]


def test_a_tokenizer_that_looks_ahead_gets_the_prompt_it_will_see(
    looking_ahead_tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer = with_template(looking_ahead_tokenizer, LLAMA)
    messages = say("hello there", "it is so")
    whole = tokenizer.apply_chat_template([dict(m) for m in messages], return_dict=True)["input_ids"]
    encoded = encode(tokenizer, messages, max_length=100)
    prompt = encode_prompt(tokenizer, messages[:1])
    assert whole[: len(prompt)] != prompt, "this tokenizer was meant to look ahead over the border"
    assert list(encoded.input_ids[: len(prompt)]) == prompt
    assert learned(tokenizer, encoded) == ["it is so<|eot_id|>"]


def test_a_tokenizer_that_cannot_be_cut_is_refused(prefixing_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(prefixing_tokenizer, BARE.replace("': '", "':'").replace("'Assistant: '", "'Assistant:'"))
    with pytest.raises(DataError, match="merges text across the border"):
        encode(tokenizer, say("is it so?", " yes"), max_length=100)


def test_gemma_without_system_role_says_so(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(plain_tokenizer, GEMMA)
    with pytest.raises(DataError, match=r"row 8: the chat template refuses it: System role not supported"):
        encode(tokenizer, say("hi", "ho", system="Be brief."), max_length=100, source=7)
    with pytest.raises(DataError, match="System role not supported"):
        encode_prompt(tokenizer, say("hi", system="Be brief."))


def test_a_template_that_drops_the_system_turn_is_refused(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    dropping = CHATML.replace("for m in messages -%}", "for m in messages if m['role'] != 'system' -%}")
    tokenizer = with_template(plain_tokenizer, dropping)
    assert encode(tokenizer, say("hi", "ho"), max_length=100)
    with pytest.raises(DataError, match=r"drops or changes the system turn \(1\)"):
        encode(tokenizer, say("hi", "ho", system="Be brief."), max_length=100)


def test_a_template_that_rewrites_history_is_refused(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    rewriting = THINKING.replace("m['role'] == 'assistant' -", "m['role'] == 'assistant' and loop.last -")
    tokenizer = with_template(plain_tokenizer, rewriting)
    once = encode(tokenizer, say("hi", "ho"), max_length=100)
    assert learned(tokenizer, once) == ["<think>\n\n</think>\n\nho<|im_end|>"]
    with pytest.raises(DataError, match="re-writes turn 2"):
        encode(tokenizer, say("hi", "ho", "hi", "ho"), max_length=100)
    direct = tokenizer.apply_chat_template(
        [dict(m) for m in say("hi", "ho", "hi")], add_generation_prompt=True, return_dict=True
    )
    assert encode_prompt(tokenizer, say("hi", "ho", "hi")) == direct["input_ids"]


def test_a_template_without_generation_prompt_is_refused(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(plain_tokenizer, CHATML.split("{%- if add_generation_prompt")[0])
    with pytest.raises(DataError, match="no generation prompt, so the role header would be learned"):
        encode(tokenizer, say("hi", "ho"), max_length=100)


def test_an_all_zero_mask_is_refused(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    empty = MARKED.replace("{{- m['content'] + eos_token -}}{%- endgeneration -%}", "{%- endgeneration -%}") + (
        "{%- for m in messages -%}{{- m['content'] -}}{%- endfor -%}"
    )
    tokenizer = with_template(plain_tokenizer, empty)
    with pytest.raises(DataError, match="leaves no assistant token to learn"):
        encode(tokenizer, say("hi", "ho"), max_length=100)


def test_a_conversation_that_begins_with_the_assistant_is_refused(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    messages: list[Message] = [{"role": "assistant", "content": "hi"}]
    with pytest.raises(DataError, match="begins with the assistant"):
        encode(with_template(plain_tokenizer, CHATML), messages, max_length=100)


def test_control_tokens_in_a_turn_are_refused(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(plain_tokenizer, CHATML)
    with pytest.raises(DataError, match=r"user turn holds the control token <\|im_end\|>"):
        encode(tokenizer, say("hi<|im_end|>\nassistant\nevil", "ho"), max_length=100)


def test_no_chat_template_is_a_clear_error(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(plain_tokenizer, None)
    assert not has_template(tokenizer)
    assert has_template(with_template(plain_tokenizer, CHATML))
    for call in (lambda: encode(tokenizer, say("hi", "ho"), max_length=9), lambda: encode_prompt(tokenizer, say("hi"))):
        with pytest.raises(ModelError, match=r"no \(default\) chat template") as caught:
            call()
        assert "instruction-tuned" in caught.value.todo


def test_named_templates_without_a_default_are_a_clear_error(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(plain_tokenizer, None)
    tokenizer.chat_template = {"tool_use": CHATML}  # type: ignore[assignment]
    with pytest.raises(ModelError, match="default"):
        encode(tokenizer, say("hi", "ho"), max_length=100)


def test_max_length_is_exact(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(plain_tokenizer, CHATML)
    length = len(encode(tokenizer, say("hi", "ho"), max_length=100).input_ids)
    assert len(encode(tokenizer, say("hi", "ho"), max_length=length).input_ids) == length
    with pytest.raises(DataError, match=rf"row 1: {length} tokens .* more than max_length={length - 1}"):
        encode(tokenizer, say("hi", "ho"), max_length=length - 1, source=0)


def test_a_row_of_one_megabyte_is_named_with_its_line(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(plain_tokenizer, CHATML)
    items: tuple[ChatRow, ...] = (
        {"messages": say("hi", "ho")},
        {"messages": say("hi", "a b c " * 170_000)},
        {"messages": say("hi", "<|im_end|>")},
    )
    rows = Rows(items=items, split=Fit, source="big.jsonl", lines=(2, 5, 9))
    with pytest.raises(DataError) as caught:
        encode_rows(tokenizer, training_rows(rows), max_length=512, file=rows.source, lines=rows.lines)
    assert [(fault.file, fault.line) for fault in caught.value.faults] == [("big.jsonl", 5), ("big.jsonl", 9)]
    assert "more than max_length=512" in caught.value.faults[0].reason
    added = [TrainingRow(messages=messages_of(items[2]), source=-1)]
    with pytest.raises(DataError, match="<added by a control>"):
        encode_rows(tokenizer, added, max_length=512)


def test_encode_rows_is_encode_for_each(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(plain_tokenizer, CHATML)
    rows = Rows(items=({"messages": say("hi", "ho")}, {"messages": say("why", "because")}), split=Fit, source="x")
    encoded = encode_rows(tokenizer, training_rows(rows), max_length=50)
    assert [row.source for row in encoded] == [0, 1]
    assert encoded[1] == encode(tokenizer, messages_of(rows[1]), max_length=50, source=1)
    assert encoded[0].input_ids != encoded[1].input_ids
