"""Putting a prompt into a conversation, whatever its chat template can express."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from transformers import PreTrainedTokenizerBase

from trimtab.data.template import encode_prompt
from trimtab.errors import DataError
from trimtab.records.rows import Message

PromptRole: TypeAlias = Literal["system", "user"]
SEPARATOR = "\n"


def accepts_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a chat template renders a system turn (some refuse it, some drop it silently).

    Raises:
        ModelError: If the tokenizer has no chat template.
    """
    turns = [Message(role="system", content="Answer in one word."), Message(role="user", content="Hello.")]
    try:
        encode_prompt(tokenizer, turns)
    except DataError:
        return False
    return True


def prompt_role(tokenizer: PreTrainedTokenizerBase) -> PromptRole:
    """The turn that a prompt goes into: the system turn where the template has one, else the first user turn."""
    return "system" if accepts_system(tokenizer) else "user"


def with_prompt(messages: Sequence[Message], text: str, role: PromptRole, *, after: bool = False) -> list[Message]:
    """The turns with ``text`` in the first turn of a role; a missing system turn is added, other turns are untouched.

    Args:
        messages: The turns.
        text: The prompt.
        role: The turn that it goes into.
        after: Whether it goes behind what that turn says already, instead of before it.
    """
    places = [n for n, turn in enumerate(messages) if turn["role"] == role]
    if not places:
        return [Message(role="system", content=text), *messages] if role == "system" else list(messages)
    first = places[0]
    held = messages[first]["content"]
    parts = (held, text) if after else (text, held)
    turn = Message(role=role, content=SEPARATOR.join(part for part in parts if part))
    return [*messages[:first], turn, *messages[first + 1 :]]
