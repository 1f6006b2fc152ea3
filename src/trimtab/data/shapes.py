"""Raw columns to typed rows: TRL's dataset shapes, checked turn by turn.

Shapes are those of https://huggingface.co/docs/trl/dataset_formats, standard (plain text) and conversational. Every
function raises ``RowError`` with the reason a row is refused; the reader adds file and line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias, cast, get_args, get_type_hints

from trimtab.records.rows import ChatRow, Message, PreferenceRow, PromptRow

Columns: TypeAlias = dict[str, object]

ROLES: tuple[str, ...] = get_args(get_type_hints(Message)["role"])
CHAT = "messages, or prompt and completion"
PROMPTS = "prompt (and id)"
PREFERENCES = "chosen and rejected (and prompt)"
_TRANSCRIPT = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


class RowError(ValueError):
    """Why one row is refused."""


def chat_row(columns: Columns) -> ChatRow:
    """A conversation from ``messages``, or from ``prompt`` and ``completion``.

    Raises:
        RowError: If the row has neither, or its turns are not a conversation that ends with the assistant.
    """
    if columns.get("messages") is not None:
        turns = _turns(columns["messages"], "messages")
    elif _has(columns, "prompt", "completion"):
        turns = [*_said(columns["prompt"], "prompt", "user"), *_said(columns["completion"], "completion", "assistant")]
    else:
        raise _missing(columns, CHAT)
    _check_conversation(turns)
    return {"messages": turns}


def prompt_row(columns: Columns) -> PromptRow:
    """A prompt, text or turns, that ends with the user; ``id`` is kept where there is one.

    Raises:
        RowError: If there is no prompt or it does not end with the user.
    """
    if columns.get("prompt") is None:
        raise _missing(columns, PROMPTS)
    turns = _said(columns["prompt"], "prompt", "user")
    _check_order(turns)
    if turns[-1]["role"] != "user":
        raise RowError(f"the last turn of a prompt must be the user's, not the {turns[-1]['role']}'s")
    name = columns.get("id")
    if name is None:
        return {"prompt": turns}
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise RowError(f"id must be text or a whole number, not {_kind(name)}")
    return {"prompt": turns, "id": str(name)}


def preference_row(columns: Columns) -> PreferenceRow:
    r"""A preference pair with an explicit or implicit prompt, text or turns.

    An implicit prompt is what both answers begin with: the longest common run of turns; for transcripts
    (``"\n\nHuman: …\n\nAssistant: …"``) likewise; for other text the longest common run of whole words. As in TRL, a
    text ``prompt`` beside conversational answers is a copy of what those answers already hold.

    Raises:
        RowError: If a side is missing, both are the same, or they answer different prompts.
    """
    if not _has(columns, "chosen", "rejected"):
        raise _missing(columns, PREFERENCES)
    chosen, rejected, prompt = columns["chosen"], columns["rejected"], columns.get("prompt")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise RowError("chosen and rejected must both be text or both be lists of turns")
    if prompt is not None and isinstance(prompt, str) == isinstance(chosen, str):
        shared = _said(prompt, "prompt", "user")
        sides = [_said(chosen, "chosen", "assistant"), _said(rejected, "rejected", "assistant")]
    elif isinstance(chosen, str) and isinstance(rejected, str):
        shared, *sides = _split_text(chosen, rejected)
    else:
        shared, *sides = _split_turns(_turns(chosen, "chosen"), _turns(rejected, "rejected"))
    for name, side in zip(("chosen", "rejected"), sides, strict=True):
        if not side or side[0]["role"] != "assistant":
            raise RowError(f"{name} has no assistant turn of its own: the two sides answer different prompts")
        _check_conversation([*shared, *side])
    if sides[0] == sides[1]:
        raise RowError("chosen and rejected are the same")
    return {"prompt": shared, "chosen": sides[0], "rejected": sides[1]}


def _has(columns: Columns, *names: str) -> bool:
    return all(columns.get(name) is not None for name in names)


def _missing(columns: Columns, wanted: str) -> RowError:
    filled = [name for name, value in columns.items() if value is not None]
    hint = "; plain `text` does not say what the assistant said" if "text" in filled and wanted == CHAT else ""
    return RowError(f"no {wanted}; columns found: {', '.join(filled) or 'none'}{hint}")


def _kind(value: object) -> str:
    names: dict[str, str] = {"dict": "an object", "list": "a list", "str": "text", "NoneType": "null"}
    return names.get(type(value).__name__, repr(value))


def _said(value: object, column: str, role: str) -> list[Message]:
    """A column that holds text (one turn of ``role``, outer white space dropped) or turns."""
    if isinstance(value, str):
        return [_message({"role": role, "content": value.strip()}, column)]
    return _turns(value, column)


def _turns(value: object, column: str) -> list[Message]:
    if isinstance(value, str):
        python = " (it looks like Python's own notation: write it with json.dumps)" if "{'" in value else ""
        raise RowError(f"{column} must be a list of turns, not text{python}")
    if not isinstance(value, list):
        raise RowError(f"{column} must be a list of turns, not {_kind(value)}")
    turns = cast("list[object]", value)
    if not turns:
        raise RowError(f"{column} is empty")
    return [_message(turn, f"{column}[{index}]") for index, turn in enumerate(turns)]


def _message(turn: object, where: str) -> Message:
    if not isinstance(turn, dict):
        raise RowError(f"{where} must be an object with role and content, not {_kind(turn)}")
    fields = cast("Columns", turn)
    role, content = fields.get("role"), fields.get("content")
    if role not in ROLES:
        raise RowError(f"{where}: role {role!r} is not one of {', '.join(ROLES)}")
    if fields.get("tool_calls") or fields.get("function_call"):
        raise RowError(f"{where}: tool calls are not supported")
    if not isinstance(content, str):
        raise RowError(f"{where}: content must be text, not {_kind(content)}")
    if not content.strip():
        raise RowError(f"{where}: content is empty")
    if not _encodable(content):
        raise RowError(f"{where}: content holds half of a surrogate pair (a broken \\u escape)")
    return cast("Message", {"role": role, "content": content})


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_order(turns: Sequence[Message]) -> None:
    roles = [turn["role"] for turn in turns]
    if roles.count("system") > 1:
        raise RowError("more than one system turn")
    if "system" in roles[1:]:
        raise RowError("the system turn must come first")
    spoken = [role for role in roles if role != "system"]
    if not spoken:
        raise RowError("there is only a system turn")
    if spoken[0] != "user":
        raise RowError(
            "the conversation begins with the assistant: the first turn after the system's must be the user's"
        )


def _check_conversation(turns: Sequence[Message]) -> None:
    if all(turn["role"] != "assistant" for turn in turns):
        raise RowError("there is no assistant turn to learn")
    _check_order(turns)
    if turns[-1]["role"] != "assistant":
        raise RowError(f"the last turn must be the assistant's, not the {turns[-1]['role']}'s")


def _split_turns(chosen: list[Message], rejected: list[Message]) -> tuple[list[Message], list[Message], list[Message]]:
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if shared == len(chosen) == len(rejected):
        raise RowError("chosen and rejected are the same")
    if not shared:
        raise RowError("chosen and rejected do not begin with the same turn, so there is no prompt")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _split_text(chosen: str, rejected: str) -> tuple[list[Message], list[Message], list[Message]]:
    if all(text.lstrip().startswith("Human:") for text in (chosen, rejected)):
        return _split_turns(_transcript(chosen, "chosen"), _transcript(rejected, "rejected"))
    if chosen == rejected:
        raise RowError("chosen and rejected are the same")
    pairs = enumerate(zip(chosen, rejected, strict=False))
    common = chosen[: next((place for place, (a, b) in pairs if a != b), min(len(chosen), len(rejected)))]
    cut = max((match.start() for match in re.finditer(r"\s", common)), default=0)
    if not common[:cut].strip():
        raise RowError("chosen and rejected do not begin with the same words, so there is no prompt")
    return (
        _said(common[:cut], "prompt", "user"),
        _said(chosen[cut:], "chosen", "assistant"),
        _said(rejected[cut:], "rejected", "assistant"),
    )


def _transcript(text: str, column: str) -> list[Message]:
    r"""Turns of a ``"\n\nHuman: …\n\nAssistant: …"`` transcript."""
    parts = _TRANSCRIPT.split(text.lstrip())
    return [
        _message({"role": _SPEAKERS[speaker], "content": said.strip()}, f"{column}[{index}]")
        for index, (speaker, said) in enumerate(zip(parts[1::2], parts[2::2], strict=True))
    ]
