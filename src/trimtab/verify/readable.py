"""Can the student still be read with the host's lenses? The monitorability part of a certificate.

Texts that show a concept and texts that do not (the *host's* answers to held-out questions, with the system prompt
taken away) are run through the student. If the host's direction still tells them apart in the student's activations,
a monitor that was fitted before training still works after it. A probe that is re-fitted on the student says whether
the concept is gone from the activations or merely moved (METHODS §5: refit probes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trimtab.lens.bank import Bank, Concept
from trimtab.lens.directions import difference_of_means
from trimtab.lens.readings import encode_rows, read_rows
from trimtab.model.generate import generate
from trimtab.model.host import Host, LanguageModel
from trimtab.records.exam import ExamRow
from trimtab.records.figures import Figure, Unmeasured
from trimtab.records.rows import ChatRow, HeldOut, Message, Rows
from trimtab.stats import auroc_interval


@dataclass(frozen=True, kw_only=True)
class Readable:
    """How well one concept is read before and after training.

    Attributes:
        concept: Name.
        host: AUROC of the host's direction on the host's activations; ``n`` counts texts.
        student: AUROC of the same direction on the student's activations of the same texts.
        refit: AUROC on the student of a direction fitted on the student (on one half of the texts, read on the other).
    """

    concept: str
    host: Figure
    student: Figure
    refit: Figure


def readable(
    host: Host,
    student: LanguageModel,
    bank: Bank,
    concepts: Sequence[str],
    rows: Rows[ExamRow, HeldOut],
    *,
    answers: int = 64,
    max_length: int = 1024,
    seed: int = 0,
) -> tuple[Readable, ...]:
    """Read each concept through the host's lens, on the host and on the student.

    Args:
        host: The frozen host.
        student: The trained model.
        bank: The host's bank.
        concepts: Names of traits to read; skills have no eliciting prompt and are passed over.
        rows: Held-out questions.
        answers: Texts on each side.
        max_length: Longest conversation in tokens.
        seed: Seed of sampling.
    """
    asked = [row.prompt[-1] for row in rows][:answers]
    plain = _texts(host, "", asked, seed=seed)
    return tuple(
        _one(
            host,
            student,
            bank,
            bank[name],
            _texts(host, bank[name].card.elicit[-1], asked, seed=seed),
            plain,
            max_length,
        )
        for name in concepts
        if bank[name].card.elicit
    )


def _texts(host: Host, system: str, asked: Sequence[Message], *, seed: int) -> list[ChatRow]:
    turns: list[Message] = [{"role": "system", "content": system}] if system else []
    texts = generate(host, [[*turns, question] for question in asked], max_new_tokens=48, temperature=1.0, seed=seed)
    return [
        {"messages": [question, {"role": "assistant", "content": text}]}
        for question, text in zip(asked, texts, strict=True)
        if text.strip()
    ]


def _one(
    host: Host,
    student: LanguageModel,
    bank: Bank,
    concept: Concept,
    shown: Sequence[ChatRow],
    plain: Sequence[ChatRow],
    max_length: int,
) -> Readable:
    site = bank.card.site
    if min(len(shown), len(plain)) < 4:
        nothing = Unmeasured(
            reason=f"{len(shown)} and {len(plain)} non-empty texts; at least 4 on each side are needed"
        )
        return Readable(concept=concept.name, host=nothing, student=nothing, refit=nothing)
    encoded = encode_rows(host, [*shown, *plain], max_length=max_length)
    direction, cut = concept.directions[site], len(shown)

    def read(lm: LanguageModel) -> torch.Tensor:
        return read_rows(lm, encoded, [site], gradients=False).activations[site]

    before, after = read(host), read(student)
    fit = difference_of_means(after[:cut:2], after[cut::2])
    refit_shown, refit_plain = after[1:cut:2] @ fit.direction, after[cut + 1 :: 2] @ fit.direction
    return Readable(
        concept=concept.name,
        host=auroc_interval((before[:cut] @ direction).numpy(), (before[cut:] @ direction).numpy()),
        student=auroc_interval((after[:cut] @ direction).numpy(), (after[cut:] @ direction).numpy()),
        refit=auroc_interval(refit_shown.numpy(), refit_plain.numpy()),
    )
