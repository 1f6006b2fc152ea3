"""What best-of-N by probe has to beat: the model's confidence in an answer, and its own word on it.

Both give one score per answer, for ``best_of.choose(candidates, by=...)``. The third rival, any answer at random, needs
no score: it is plain sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from transformers import PreTrainedTokenizerBase

from trimtab.data.template import encode_prompt
from trimtab.errors import DataError, UsageError
from trimtab.lens.probes.passes import output_figures
from trimtab.model.base import LanguageModel
from trimtab.model.generate import context_length
from trimtab.records.claims import Said
from trimtab.records.lens import Selected
from trimtab.records.rows import Message
from trimtab.reward.passes import Placer

Progress: TypeAlias = Callable[[int, int], None]

Floats: TypeAlias = NDArray[np.float64]


def mean_log_probabilities(
    lm: LanguageModel, said: Sequence[Said], *, max_tokens: int = 4096, progress: Progress | None = None
) -> Floats:
    """Mean log-probability of each answer's tokens under a model, nats, ``[answer]``; ``-inf`` for an empty answer.

    Under the student it is the confidence that it answered with (at temperature 1), under the host how likely the model
    before training finds the answer. The end of the turn does not count: a cut answer has none.

    Args:
        lm: The model.
        said: The answers.
        max_tokens: Most tokens in one forward pass, padding counted.
        progress: Called with answers done and answers in all.

    Raises:
        DataError: If an answer with its prompt is longer than the model's context.
    """
    placer = Placer(lm.tokenizer, max_length=context_length(lm))
    rows = [_row(lm, placer.prompt(one.prompt), one.answer, index) for index, one in enumerate(said)]
    found = np.full(len(rows), -np.inf)
    full = [index for index, row in enumerate(rows) if row.positions]
    if full:
        figures = output_figures(lm, [rows[index] for index in full], max_tokens=max_tokens, progress=progress)
        found[full] = figures.log_probability_mean.double().numpy()
    return found


@dataclass(frozen=True, kw_only=True)
class SelfJudge:
    """Asks a model about an answer, and compares how likely two continuations are.

    The score is ``P(yes) / (P(yes) + P(no))``, with the probability of *all* tokens of a continuation.

    Attributes:
        question: What is asked: the next user turn, or words behind the answer (``same_turn``).
        yes: How the model goes on if it stands by the answer.
        no: How it goes on if it does not.
        same_turn: Whether the question and what follows stand in the same assistant turn as the answer, as where a
            model was taught to check itself (the lab: ``" wait,"``, ``" no, that is right."``, ``" that is wrong."``).

    Raises:
        UsageError: If a text is empty, or both continuations are the same.
    """

    question: str = "Is everything in your answer true? Answer with yes or no only."
    yes: str = "Yes"
    no: str = "No"
    same_turn: bool = False

    def __post_init__(self) -> None:
        if not (self.question and self.yes and self.no) or self.yes == self.no:
            raise UsageError(
                f"a question {self.question!r} with the continuations {self.yes!r} and {self.no!r}",
                allowed="a question and two different continuations, none of them empty",
                todo="write them out",
            )

    def __call__(
        self, lm: LanguageModel, said: Sequence[Said], *, max_tokens: int = 4096, progress: Progress | None = None
    ) -> Floats:
        """How far the model stands by each answer, ``[answer]``, from 0 to 1.

        Args:
            lm: The model that is asked; the student about itself, or the host.
            said: The answers.
            max_tokens: Most tokens in one forward pass, padding counted.
            progress: Called with continuations done and continuations in all, two per answer.

        Raises:
            DataError: If an answer with its prompt and the question is longer than the model's context.
        """
        if not said:
            return np.zeros(0)
        placer = Placer(lm.tokenizer, max_length=context_length(lm))
        rows: list[Selected] = []
        for index, one in enumerate(said):
            asked = self._asked(lm.tokenizer, placer, one)
            rows += [_row(lm, asked, continuation, index) for continuation in (self.yes, self.no)]
        figures = output_figures(lm, rows, max_tokens=max_tokens, progress=progress)
        lengths = np.array([len(row.positions) for row in rows])
        logs = (figures.log_probability_mean.double().numpy() * lengths).reshape(-1, 2)
        return np.asarray(expit(logs[:, 0] - logs[:, 1]))

    def _asked(self, tokenizer: PreTrainedTokenizerBase, placer: Placer, said: Said) -> tuple[int, ...]:
        """Tokens up to where the model goes on."""
        if self.same_turn:
            return placer.prompt(said.prompt) + _ids(tokenizer, said.answer + self.question)
        turns: tuple[Message, ...] = (
            *said.prompt,
            {"role": "assistant", "content": said.answer},
            {"role": "user", "content": self.question},
        )
        return tuple(encode_prompt(tokenizer, turns))


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Tokens of what a model said; control tokens that are spelt out in it are text."""
    found = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
    return tuple(cast("list[int]", found["input_ids"]))


def _row(lm: LanguageModel, before: tuple[int, ...], text: str, index: int) -> Selected:
    """A text behind some tokens, whose tokens are selected."""
    ids = before + _ids(lm.tokenizer, text)
    if len(ids) > context_length(lm):
        raise DataError(
            f"answer {index + 1}: {len(ids)} tokens with what stands around it",
            allowed=f"at most {context_length(lm)} tokens, the model's context",
            todo="shorten the prompt, or lower the most tokens that the student may generate",
        )
    return Selected(input_ids=ids, positions=tuple(range(len(before), len(ids))), source=index)
