"""The monitoring harness of RLFR (2602.10067): doubtful claims of an answer are put before the model again.

The student answers; the frozen host reads every claim of the answer, as text; the first claim that is asserted and read
as doubtful is flagged; words are injected after it, and the student goes on from there. What it then says decides what
was done: the claim was maintained, corrected or retracted. This goes on until nothing is flagged any more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from trimtab.data.template import encode_prompt
from trimtab.errors import DataError, UsageError
from trimtab.model.base import HasModel
from trimtab.model.generate import context_length, continue_ids, stop_ids
from trimtab.records.harness import HarnessSettings, Monitored
from trimtab.records.rows import Message
from trimtab.reward.turns import Turns
from trimtab.roles import Reader, Splitter

Progress = Callable[[int, int], None]


def monitored(
    student: HasModel,
    reader: Reader,
    splitter: Splitter,
    prompts: Sequence[Sequence[Message]],
    settings: HarnessSettings,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 64,
    first: Sequence[Sequence[int]] | None = None,
    progress: Progress | None = None,
) -> tuple[Monitored, ...]:
    """Answer each prompt under the harness.

    All answers go through their turns side by side: one batch of generation and one of reading per round. An answer
    depends on its prompt, its place among ``prompts`` and ``seed``, not on what becomes of the others. With nothing to
    flag, the answers are bit for bit those of ``continue_ids`` from the prompts.

    Where the answer is cut after a flagged claim and the student has nothing to say but about that claim, the rest of
    the answer is put back. What the student says after a flagged claim ends where it ends the answer, or with its last
    whole sentence if it runs out of tokens. If it says nothing whole, the answer is put back as it was and the claim
    counts as maintained. A claim is not flagged where no token is left to ask about it. One that is taken back and then
    said again in the same words counts as corrected, so that it is read and flagged again.

    Args:
        student: Answers.
        reader: P(right) of claims, from the frozen host.
        splitter: Finds claims and says how the answer stands to them.
        prompts: Conversations that end before the answer.
        settings: Of the harness.
        max_new_tokens: Most tokens of the student's own in the answer that comes out; injected ones do not count, nor
            those that were cut away.
        temperature: Of the softmax; 0 is greedy.
        seed: Of the sampling; each round has a stream of its own.
        batch_size: Answers per forward pass.
        first: Tokens of first answers that are there already, one for each prompt, such as the best of several.
        progress: Called with the answers that are done and their number, after each round.

    Returns:
        One answer for each prompt, in order. None is longer than the student's context.

    Raises:
        ModelError: If the tokenizer has no chat template, or the reader gives something that is no probability.
        DataError: If the template refuses a prompt, or a prompt fills the student's context.
        UsageError: If a number is out of range.
    """
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens {max_new_tokens}", allowed="at least 1", todo="correct the number")
    if first is not None and len(first) != len(prompts):
        raise UsageError(
            f"{len(first)} first answers to {len(prompts)} prompts",
            allowed="one for each prompt",
            todo="leave them out, or pass one for each",
        )
    room = context_length(student)
    stops = frozenset(stop_ids(student))
    answers = [
        Turns(
            tokenizer=student.tokenizer,
            settings=settings,
            prompt=tuple(prompt),
            prompt_ids=_encoded(student, prompt, index, room),
            stops=stops,
        )
        for index, prompt in enumerate(prompts)
    ]

    def say(chosen: Sequence[int], turn: int) -> list[list[int]]:
        limits = [0] * len(answers)
        for index in chosen:
            limits[index] = answers[index].limit(room, max_new_tokens)
        return continue_ids(
            student,
            [answer.sequence() for answer in answers],
            max_new_tokens=limits,
            temperature=temperature,
            seed=_turn_seed(seed, turn),
            batch_size=batch_size,
        )

    going = list(range(len(answers)))
    turn = 0
    while going:
        new = say(going, turn) if turn or first is None else [list(ids) for ids in first]
        _hear([(answers[index], new[index]) for index in going], splitter)
        _read([answers[index] for index in going], reader)
        going = [index for index in going if answers[index].open(room, max_new_tokens)]
        turn += 1
        if progress is not None:
            progress(len(answers) - len(going), len(answers))
    return tuple(answer.result() for answer in answers)


def _encoded(student: HasModel, prompt: Sequence[Message], index: int, room: int) -> tuple[int, ...]:
    ids = encode_prompt(student.tokenizer, prompt)
    if len(ids) >= room:
        raise DataError(
            f"prompt {index + 1}: {len(ids)} tokens",
            allowed=f"fewer than {room} tokens, the student's context",
            todo="shorten the prompt",
        )
    return tuple(ids)


def _hear(said: Sequence[tuple[Turns, Sequence[int]]], splitter: Splitter) -> None:
    """Find the claims in what was said."""
    texts = [(answer, answer.go_on(new)) for answer, new in said]
    found = iter(splitter([text for _, text in texts if text]))
    for answer, text in texts:
        answer.hear(next(found) if text else ())


def _read(answers: Sequence[Turns], reader: Reader) -> None:
    """Read the claims that nobody has read yet."""
    pending = [(answer, said) for answer in answers if (said := answer.unread()) is not None]
    if not pending:
        return
    readings = reader([said for _, said in pending])
    for (answer, _), probabilities in zip(pending, readings, strict=True):
        answer.take_readings(probabilities)


def _turn_seed(seed: int, turn: int) -> int:
    """The seed of a round; that of the first is the seed itself, so that first answers are the plain ones."""
    if not turn:
        return seed
    return int.from_bytes(hashlib.sha256(f"harness {seed} {turn}".encode()).digest()[:4], "big")
