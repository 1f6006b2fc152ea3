"""Chat templates: conversations to token ids, with loss on what the assistant says and nothing else.

The text is always the tokenizer's own chat template's. Where an assistant turn begins and ends is taken from the
template's ``{% generation %}`` marks if it has them, and otherwise from what the template renders before and after the
turn. Tokens are cut at those places: what comes before an answer is tokenised exactly as ``encode_prompt`` does for
generation, so that a tokenizer that would merge text across the border cannot make training and generation differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from jinja2.exceptions import TemplateError
from transformers import BatchEncoding, PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from trimtab.errors import DataError, Fault, ModelError, RefusedError
from trimtab.records.rows import ChatRow, Message, Rows, Split
from trimtab.records.training import IGNORED, Encoded, TrainingRow

Span: TypeAlias = tuple[int, int]
"""First place and the place after the last: characters of a text, or tokens."""

_render_texts = cast("Callable[..., tuple[list[str], list[list[Span]]]]", chat_template_utils.render_jinja_template)
_SENTENCE_END: Final = "."
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A tokenised conversation and where in its text everything stands.

    Attributes:
        text: What the chat template renders.
        input_ids: The tokens, those of ``encode``.
        answers: Characters of each answer with its end-of-turn mark.
        pieces: First characters of the pieces of text that were tokenised by themselves; the first is 0.
        contents: Characters of each turn's content, as far as the template keeps white space around it.
    """

    text: str
    input_ids: tuple[int, ...]
    answers: tuple[Span, ...]
    pieces: tuple[int, ...]
    contents: tuple[Span, ...]


def has_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer has a chat template."""
    return bool(tokenizer.chat_template)


def messages_of(row: ChatRow) -> tuple[Message, ...]:
    """The turns of a row."""
    return tuple(row["messages"])


def training_rows(rows: Rows[ChatRow, Split]) -> tuple[TrainingRow, ...]:
    """Rows on their way into training, each with its place in ``rows``."""
    return tuple(TrainingRow(messages=messages_of(row), source=index) for index, row in enumerate(rows))


def encode(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, max_length: int, source: int = -1
) -> Encoded:
    """Tokenise a conversation; labels stand on every assistant turn with its end-of-turn mark, and only there.

    Args:
        tokenizer: A tokenizer with a chat template.
        messages: The turns.
        max_length: Most tokens; a longer conversation is an error, never cut.
        source: 0-based row that the conversation came from, kept in the result and named in errors.

    Returns:
        The tokens; ``encode_prompt`` of the turns before any answer is a prefix of them.

    Raises:
        ModelError: If the tokenizer has no chat template.
        DataError: If the conversation is too long, the template refuses it, drops a turn or re-writes earlier ones,
            or no token would be learned.
    """
    try:
        return _encode(tokenizer, messages, max_length, source)
    except RefusedError as error:
        where = f"row {source + 1}" if source >= 0 else "the conversation"
        raise _refusal(f"{where}: {error}") from error


def encode_rows(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[TrainingRow],
    *,
    max_length: int,
    file: str = "<rows>",
    lines: Sequence[int] = (),
) -> tuple[Encoded, ...]:
    """``encode`` every row; what is wrong with any of them comes in one list.

    Args:
        tokenizer: A tokenizer with a chat template.
        rows: The conversations.
        max_length: Most tokens in one.
        file: Source of the rows, for messages (``Rows.source``).
        lines: 1-based line of each source row (``Rows.lines``); without it, rows are counted.

    Raises:
        ModelError: If the tokenizer has no chat template.
        DataError: Carries one fault for every row that ``encode`` refuses.
    """
    encoded: list[Encoded] = []
    faults: list[Fault] = []
    for row in rows:
        try:
            encoded.append(_encode(tokenizer, row.messages, max_length, row.source))
        except RefusedError as error:
            added = row.source < 0
            line = 0 if added else lines[row.source] if lines else row.source + 1
            faults.append(Fault(file="<added by a control>" if added else file, line=line, reason=str(error)))
    if faults:
        raise _refusal(f"{file}: {len(faults)} of {len(rows)} rows cannot be encoded", faults)
    return tuple(encoded)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Tokenise turns and the opening of the assistant's answer to them (the generation prompt).

    Raises:
        ModelError: If the tokenizer has no chat template.
        DataError: If the template refuses the turns or drops one.
    """
    template = _template(tokenizer)
    try:
        prompt, _ = _render(tokenizer, template, messages, open_answer=True)
        _check_contents(tokenizer, [turn for turn in messages if turn["role"] != "assistant"], prompt)
        return _tokens(tokenizer, prompt, _earlier_answers(tokenizer, template, messages, prompt))[0]
    except RefusedError as error:
        raise _refusal(f"the prompt: {error}") from error


def lay_out(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, max_length: int) -> Layout:
    """Tokenise a conversation as ``encode`` does, answers or none, and say where each turn stands in the text.

    Raises:
        ModelError: If the tokenizer has no chat template.
        RefusedError: If the conversation is too long, or the template refuses it or changes what a turn says.
    """
    template = _template(tokenizer)
    text, answers = _answers(tokenizer, template, messages)
    ids, _, pieces = _tokens(tokenizer, text, answers, max_length=max_length)
    return Layout(
        text=text,
        input_ids=tuple(ids),
        answers=tuple(answers),
        pieces=tuple(pieces),
        contents=tuple(_contents(tokenizer, template, messages, text)),
    )


def _contents(tokenizer: PreTrainedTokenizerBase, template: str, messages: Sequence[Message], text: str) -> list[Span]:
    """Where each turn's content stands: the template is rendered with marks in place of the contents."""
    marks = [f"\ue000{index}\ue001" for index in range(len(messages))]
    marked: list[Message] = [{**turn, "content": mark} for turn, mark in zip(messages, marks, strict=True)]
    rest, _ = _render(tokenizer, template, marked)
    spans: list[Span] = []
    place = 0
    for index, (turn, mark) in enumerate(zip(messages, marks, strict=True)):
        before, found, rest = rest.partition(mark)
        after = rest[: rest.find("\ue000")] if "\ue000" in rest else rest
        place += len(before)
        said = turn["content"]
        kept = next(
            (
                form
                for form in (said, said.strip(), said.lstrip(), said.rstrip())
                if text.startswith(form + after, place)
            ),
            None,
        )
        if not found or kept is None or not text.startswith(before, place - len(before)):
            raise RefusedError(f"the chat template drops or changes the {turn['role']} turn ({index + 1})")
        spans.append((place, place + len(kept)))
        place += len(kept)
    return spans


def _refusal(given: str, faults: Sequence[Fault] = ()) -> DataError:
    return DataError(
        given,
        allowed="conversations that fit max_length and that the tokenizer's chat template can express",
        todo="shorten or correct the row, raise max_length, or use a model whose chat template allows it",
        faults=faults,
    )


def _encode(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], max_length: int, source: int) -> Encoded:
    text, spans = _answers(tokenizer, _template(tokenizer), messages)
    ids, places, _ = _tokens(tokenizer, text, spans, max_length=max_length)
    labels = [IGNORED] * len(ids)
    for start, end in places:
        labels[start:end] = ids[start:end]
    if all(label == IGNORED for label in labels):
        raise RefusedError("the chat template leaves no assistant token to learn")
    return Encoded(input_ids=tuple(ids), labels=tuple(labels), source=source)


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        if has_template(tokenizer):
            return tokenizer.get_chat_template()
    except ValueError:  # several named templates and no default one
        pass
    raise ModelError(
        f"the tokenizer of {tokenizer.name_or_path or 'this model'} has no (default) chat template",
        allowed="a tokenizer with a chat template, as instruction-tuned models have",
        todo="use the instruction-tuned model, or set tokenizer.chat_template and save the tokenizer",
    )


def _render(
    tokenizer: PreTrainedTokenizerBase, template: str, messages: Sequence[Message], *, open_answer: bool = False
) -> tuple[str, list[Span]]:
    """The rendered text and, for a template with ``{% generation %}`` marks, what they enclose."""
    try:
        texts, marks = _render_texts(
            conversations=[[dict(turn) for turn in messages]],
            chat_template=template,
            add_generation_prompt=open_answer,
            return_assistant_tokens_mask=_GENERATION.search(template) is not None,
            **tokenizer.special_tokens_map,
        )
    except (TemplateError, TypeError, ValueError, LookupError) as error:
        raise RefusedError(f"the chat template refuses it: {error}") from error
    return texts[0], [(start, end) for start, end in marks[0] if start < end] if marks else []


def _answers(tokenizer: PreTrainedTokenizerBase, template: str, messages: Sequence[Message]) -> tuple[str, list[Span]]:
    """The rendered conversation and where its answers stand, each with its end-of-turn mark."""
    text, marks = _render(tokenizer, template, messages)
    if _GENERATION.search(template):
        _check_contents(tokenizer, [turn for turn in messages if turn["role"] != "assistant"], text)
        return text, marks
    _check_contents(tokenizer, messages, text)
    spans: list[Span] = []
    for index, turn in enumerate(messages):
        if turn["role"] == "assistant":
            if not index:
                raise RefusedError("the conversation begins with the assistant")
            before, _ = _render(tokenizer, template, messages[:index], open_answer=True)
            closed, _ = _render(tokenizer, template, messages[:index])
            after, _ = _render(tokenizer, template, messages[: index + 1])
            if not (after.startswith(before) and text.startswith(after)):
                raise RefusedError(
                    f"the chat template re-writes turn {index + 1} or what stands before it, so the model would never "
                    "see in use what it is trained on; split the conversation, or use a template with {% generation %}"
                )
            said = turn["content"].strip()
            answer = after[len(before) :]
            if before == closed and not answer.lstrip().startswith(said):
                raise RefusedError("the chat template has no generation prompt, so the role header would be learned")
            spans.append((len(before), len(before) + _answer_length(answer, said)))
    return text, spans


def _answer_length(answer: str, said: str) -> int:
    """Characters up to the end-of-turn mark; white space after it is the template's, but may itself be the mark."""
    mark = answer[answer.find(said) + len(said) :]
    return len(answer.rstrip()) if mark.strip() else len(answer)


def _earlier_answers(
    tokenizer: PreTrainedTokenizerBase, template: str, messages: Sequence[Message], prompt: str
) -> list[Span]:
    """Where earlier answers stand in a prompt; none where the template re-writes them."""
    if all(turn["role"] != "assistant" for turn in messages):
        return []
    try:
        text, spans = _answers(tokenizer, template, messages)
    except RefusedError:
        return []
    return spans if prompt.startswith(text) else []


def _check_contents(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], text: str) -> None:
    """Every turn must come out of the template, and none may smuggle in a control token."""
    control = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    for index, turn in enumerate(messages):
        content = turn["content"]
        if content.strip() not in text:
            raise RefusedError(f"the chat template drops or changes the {turn['role']} turn ({index + 1})")
        found = next((token for token in control if token in content), None)
        if found is not None:
            raise RefusedError(
                f"the {turn['role']} turn holds the control token {found}, which would end or open turns"
            )


def tokenise(tokenizer: PreTrainedTokenizerBase, text: str, *, offsets: bool = False) -> BatchEncoding:
    """Tokens of rendered text, in which the template has put every control token that belongs there.

    Not ``verbose``: the tokenizer would warn of texts longer than its ``model_max_length``, in which nothing is wrong.
    Who calls this says how long a row may be and refuses longer ones by name.

    Args:
        tokenizer: Any tokenizer.
        text: The text.
        offsets: Also which characters each token covers (``offset_mapping``); fast tokenizers only.
    """
    found: BatchEncoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=offsets, verbose=False)
    return found


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return cast("list[int]", tokenise(tokenizer, text)["input_ids"]) if text else []


def _tokens(
    tokenizer: PreTrainedTokenizerBase, text: str, spans: Sequence[Span], *, max_length: int | None = None
) -> tuple[list[int], list[Span], list[int]]:
    """Tokenise text so that a token begins at every span's start and end.

    Left to right: the text up to the next cut is tokenised whole; if that changes the tokens before the last cut (the
    tokenizer merges across it, or looks ahead), the text is split there and tokenised in two pieces.

    Returns:
        The ids, for each span its first token and the token after its last, and the first character of each piece.
    """
    whole = _ids(tokenizer, text)
    _check_length(whole, text, max_length)
    ids: list[int] = []
    places: list[int] = []
    pieces = [0]
    base, base_ids, last = 0, list[int](), 0
    for cut in [*(place for span in spans for place in span), len(text)]:
        joined = whole if cut - base == len(text) else base_ids + _ids(tokenizer, text[base:cut])
        if joined[: len(ids)] != ids:
            base, base_ids = last, ids
            pieces.append(base)
            joined = base_ids + _ids(tokenizer, text[base:cut])
        ids, last = joined, cut
        places.append(len(ids))
    _check_length(ids, text, max_length)
    if base and _decoded(tokenizer, ids) != _decoded(tokenizer, whole):
        raise RefusedError("the tokenizer merges text across the border of an answer and cannot be split there")
    return ids, list(zip(places[0:-1:2], places[1:-1:2], strict=True)), pieces


def _check_length(ids: Sequence[int], text: str, max_length: int | None) -> None:
    if max_length is not None and len(ids) > max_length:
        raise RefusedError(f"{len(ids)} tokens ({len(text)} characters) are more than max_length={max_length}")


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return cast("str", tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def words_after(tokenizer: PreTrainedTokenizerBase, words: str) -> list[int]:
    """Tokens of words that come after a sentence: no tokenizer puts its mark for the beginning of a text there."""
    anchor, joined = _plain_ids(tokenizer, _SENTENCE_END), _plain_ids(tokenizer, _SENTENCE_END + words)
    return joined[len(anchor) :] if joined[: len(anchor)] == anchor else _plain_ids(tokenizer, words)


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    found = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
    return cast("list[int]", found["input_ids"])
