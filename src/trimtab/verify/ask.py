"""Ask a model the exam questions and grade its answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from trimtab.data.batches import batches, pad_id
from trimtab.data.template import encode
from trimtab.model.generate import generate
from trimtab.model.host import LanguageModel
from trimtab.records.exam import Exam, ExamRow
from trimtab.records.figures import Figure, Measured, Unmeasured
from trimtab.records.results import Answer
from trimtab.records.training import IGNORED
from trimtab.stats import bootstrap

Progress = Callable[[int, int], None]


def ask(
    lm: LanguageModel, exams: Sequence[Exam], *, seed: int = 0, batch_size: int = 256, progress: Progress | None = None
) -> tuple[Answer, ...]:
    """Answer every question of every exam once, in exam order.

    Two exams that put the same question under the same settings grade the same answer: a trait is looked for in the
    very answers that were graded for the skill.

    Args:
        lm: The model that is examined.
        exams: The exams; their rows are held out by type.
        seed: Seed of sampled answers.
        batch_size: Questions generated together.
        progress: Called with exams done and exams in all.
    """
    answers: dict[int, tuple[Answer, ...]] = {}
    said: dict[tuple[object, ...], str] = {}
    order = sorted(range(len(exams)), key=lambda i: (exams[i].max_new_tokens, exams[i].temperature))
    done = 0
    if progress is not None:
        progress(0, len(exams))
    for (max_new_tokens, temperature), group in groupby(
        order, key=lambda i: (exams[i].max_new_tokens, exams[i].temperature)
    ):
        places = list(group)
        wanted = {_key(exams[i], row): row for i in places for row in exams[i].rows}
        new = {key: row for key, row in wanted.items() if key not in said}
        texts = generate(
            lm,
            [row.prompt for row in new.values()],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            batch_size=batch_size,
        )
        said.update(zip(new, texts, strict=True))
        for i in places:
            answers[i] = tuple(_answer(exams[i], row, said[_key(exams[i], row)]) for row in exams[i].rows)
        done += len(places)
        if progress is not None:
            progress(done, len(exams))
    return tuple(answer for i in range(len(exams)) for answer in answers[i])


def _key(exam: Exam, row: ExamRow) -> tuple[object, ...]:
    turns = tuple((message["role"], message["content"]) for message in row.prompt)
    return (turns, exam.max_new_tokens, exam.temperature)


def _answer(exam: Exam, row: ExamRow, text: str) -> Answer:
    return Answer(
        exam=exam.name,
        measure=exam.measure,
        id=row.id,
        group=row.group,
        prompt=row.prompt[-1]["content"],
        text=text,
        passed=exam.grade(row, text),
    )


def perplexity(lm: LanguageModel, exams: Sequence[Exam], *, max_length: int = 1024) -> Figure:
    """Perplexity of the plain reference answers to the capability questions; ``n`` counts tokens.

    The interval is by bootstrap over questions.
    """
    rows = [row for exam in exams if exam.measure == "capability" for row in exam.rows if row.reference]
    if not rows:
        return Unmeasured(reason="no capability exam has reference answers")
    encoded = [
        encode(lm.tokenizer, (*row.prompt, {"role": "assistant", "content": row.reference}), max_length=max_length)
        for row in rows
    ]
    sums, counts = torch.zeros(len(rows)), torch.zeros(len(rows))
    with torch.inference_mode():
        for indices, batch in batches(encoded, pad_id(lm.tokenizer), batch_size=64):
            batch = batch.to(lm.device)
            logits = lm.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
            labels = batch.labels[:, 1:]
            losses = torch.nn.functional.cross_entropy(
                logits[:, :-1].float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
            )
            sums[list(indices)] = losses.sum(1).cpu()
            counts[list(indices)] = (labels != IGNORED).sum(1).float().cpu()
    figure = bootstrap(_mean_loss, sums.double().numpy(), counts.double().numpy(), paired=True)
    match figure:
        case Unmeasured():
            return figure
        case Measured():
            low, value, high = (math.exp(nats) for nats in (figure.low, figure.value, figure.high))
            return Measured(value=value, low=low, high=high, n=int(counts.sum()))


def _mean_loss(sums: NDArray[np.float64], counts: NDArray[np.float64], *, axis: int) -> NDArray[np.float64]:
    """Loss per token of a sample of questions."""
    return np.asarray(sums.sum(axis=axis) / counts.sum(axis=axis))
