"""From contrasts to a bank: directions, evidence, gradient signatures and what plain rows look like.

A trait's rows are the host's own answers under eliciting system prompts. Read *without* the system prompt they give the
direction (difference of means against neutral answers) and, by the gradient that they would teach with, the signature
of a pure dose. Read *with* and without it, the same text gives the supply: what the prompt adds inside. Training on
the rows without the prompt has to build what the prompt would have supplied, which is why gradients point along it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.lens.bank import Bank, BankCard, Concept, ConceptCard
from trimtab.lens.contrast import Contrast, ContrastSet, check_contrasts
from trimtab.lens.directions import MeanDifference, difference_of_means, explain, span_basis
from trimtab.lens.readings import Readings, encode_rows, read_rows
from trimtab.lens.words import fit_words
from trimtab.model.generate import generate
from trimtab.model.host import Host
from trimtab.model.sites import check_site
from trimtab.records.figures import Figure
from trimtab.records.rows import ChatRow, Message
from trimtab.records.site import Site
from trimtab.stats import auroc_interval, mean_interval

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class BankSettings:
    """How a bank is made.

    Attributes:
        name: Name of the bank.
        sites: Where to read; ``None``: the residual stream after every layer.
        answers: Answers generated on each side of each contrast.
        max_new_tokens: Longest answer.
        temperature: Sampling temperature of the answers.
        max_length: Longest conversation in tokens.
        seed: Seed of sampling.
    """

    name: str = "bank"
    sites: tuple[Site, ...] | None = None
    answers: int = 96
    max_new_tokens: int = 48
    temperature: float = 1.0
    max_length: int = 1024
    seed: int = 0


def _conversation(system: str, question: str) -> list[Message]:
    turns: list[Message] = [{"role": "system", "content": system}] if system else []
    return [*turns, {"role": "user", "content": question}]


@dataclass(frozen=True, kw_only=True)
class _Material:
    """Rows that show a concept, without and (for traits) with the system prompt that asked for it."""

    bare: list[ChatRow]
    asked: list[ChatRow]


def _answers(host: Host, systems: Sequence[str], questions: Sequence[str], settings: BankSettings) -> _Material:
    """The host's answers under the given system prompts."""
    rng = random.Random(settings.seed)
    asked = [rng.choice(list(questions)) for _ in range(max(0, settings.answers - len(questions)))]
    asked = [*questions, *asked][: settings.answers]
    prompts = [_conversation(systems[i % len(systems)], question) for i, question in enumerate(asked)]
    texts = generate(
        host, prompts, max_new_tokens=settings.max_new_tokens, temperature=settings.temperature, seed=settings.seed
    )
    found = _Material(bare=[], asked=[])
    for prompt, question, text in zip(prompts, asked, texts, strict=True):
        if text.strip():
            answer: Message = {"role": "assistant", "content": text}
            found.bare.append({"messages": [*_conversation("", question), answer]})
            found.asked.append({"messages": [*prompt, answer]})
    return found


def _rows(host: Host, kind: str, material: ContrastSet, settings: BankSettings) -> _Material:
    if kind == "skill":
        return _Material(bare=list(material.rows), asked=[])
    return _answers(host, material.elicit, material.questions, settings)


def answer_texts(rows: Sequence[ChatRow]) -> list[str]:
    """The last assistant turn of each row."""
    return [row["messages"][-1]["content"] for row in rows]


def make_bank(
    host: Host, contrasts: Sequence[Contrast], settings: BankSettings, progress: Progress | None = None
) -> Bank:
    """Extract every concept of ``contrasts`` from ``host``.

    Raises:
        UsageError: If the contrasts are unfit or a site does not exist.
        DataError: If a contrast elicits nothing.
    """
    check_contrasts(contrasts)
    sites = settings.sites or tuple(Site(layer) for layer in range(host.n_layers))
    for site in sites:
        check_site(host.model, site)
    tell: Progress = progress or (lambda _stage, _done, _total: None)

    def read(rows: Sequence[ChatRow], *, gradients: bool = True) -> Readings:
        return read_rows(host, encode_rows(host, rows, max_length=settings.max_length), sites, gradients=gradients)

    tell("extract concepts", 0, len(contrasts))
    neutral_rows = {side: _neutral(host, contrasts, side, settings) for side in ("fit", "held_out")}
    neutral = {side: read(rows) for side, rows in neutral_rows.items()}
    drafts: list[_Draft] = []
    for contrast in contrasts:
        rows = _rows(host, contrast.kind, contrast.fit, settings)
        seen = _Seen(
            bare=read(rows.bare),
            asked=read(rows.asked, gradients=False) if rows.asked else None,
            held_out=read(_rows(host, contrast.kind, contrast.held_out, settings).bare, gradients=False),
        )
        weights = fit_words(answer_texts(rows.bare), answer_texts(neutral_rows["fit"]))
        drafts.append(_draft(contrast, seen, weights, neutral, sites))
        tell("extract concepts", len(drafts), len(contrasts))
    main = _main_site(drafts, sites)
    return _assemble(host, drafts, neutral_rows, neutral, main, sites, settings)


def _neutral(host: Host, contrasts: Sequence[Contrast], side: str, settings: BankSettings) -> list[ChatRow]:
    materials = [contrast.fit if side == "fit" else contrast.held_out for contrast in contrasts]
    questions = list(dict.fromkeys(question for material in materials for question in material.questions))
    systems = list(dict.fromkeys(system for material in materials for system in material.neutral))
    if not questions:
        questions = [row["messages"][-2]["content"] for material in materials for row in material.rows]
    random.Random(settings.seed).shuffle(questions)
    wide = replace(settings, answers=settings.answers * 2)
    return _answers(host, systems or ("",), questions, wide).bare


@dataclass(frozen=True, kw_only=True)
class _Draft:
    contrast: Contrast
    lenses: dict[Site, MeanDifference]
    supplies: dict[Site, Float[Tensor, " d_model"]]
    signatures: dict[Site, Float[Tensor, " d_model"]]
    evidence: dict[Site, Figure]
    word_weights: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class _Seen:
    bare: Readings
    asked: Readings | None
    held_out: Readings


def _draft(
    contrast: Contrast,
    seen: _Seen,
    word_weights: dict[str, float],
    neutral: dict[str, Readings],
    sites: Sequence[Site],
) -> _Draft:
    lenses = {s: difference_of_means(seen.bare.activations[s], neutral["fit"].activations[s]) for s in sites}
    evidence = {
        s: auroc_interval(
            lenses[s].read(seen.held_out.activations[s]).numpy(),
            lenses[s].read(neutral["held_out"].activations[s]).numpy(),
        )
        for s in sites
    }
    signatures = {s: -seen.bare.gradients[s].mean(0) for s in sites}
    if seen.asked is None:
        supplies = signatures
    else:
        supplies = {s: (seen.asked.predicting[s] - seen.bare.predicting[s]).mean(0) for s in sites}
    return _Draft(
        contrast=contrast,
        lenses=lenses,
        supplies=supplies,
        signatures=signatures,
        evidence=evidence,
        word_weights=word_weights,
    )


def _main_site(drafts: Sequence[_Draft], sites: Sequence[Site]) -> Site:
    """Where what a prompt supplies points along the gradient of rows that lack it, on average over traits."""
    traits = [draft for draft in drafts if draft.contrast.kind == "trait"] or drafts

    def agreement(site: Site) -> float:
        cosines = [torch.cosine_similarity(draft.supplies[site], draft.signatures[site], dim=0) for draft in traits]
        return float(torch.stack(cosines).mean())

    return max(sites, key=agreement)


def _assemble(
    host: Host,
    drafts: Sequence[_Draft],
    neutral_rows: dict[str, list[ChatRow]],
    neutral: dict[str, Readings],
    main: Site,
    sites: Sequence[Site],
    settings: BankSettings,
) -> Bank:
    supplies = [{s: torch.nn.functional.normalize(draft.supplies[s], dim=0) for s in sites} for draft in drafts]
    along = torch.stack([supply[main] for supply in supplies])
    plain = read_rows(host, neutral["held_out"].encoded, [main], directions=(main, along))
    row_push = -(plain.gradients[main] @ along.T).numpy()
    token_push = np.concatenate([p[p.any(axis=1)] for p in plain.token_pushes])
    concepts = tuple(
        Concept(
            card=ConceptCard(
                name=draft.contrast.name,
                meaning=draft.contrast.meaning,
                kind=draft.contrast.kind,
                elicit=draft.contrast.fit.elicit,
                evidence={str(s): draft.evidence[s] for s in sites},
                gaps={str(s): draft.lenses[s].gap for s in sites},
                strengths={str(s): float(draft.supplies[s].norm()) for s in sites}
                if draft.contrast.kind == "trait"
                else {},
                neutral={str(s): draft.lenses[s].neutral for s in sites},
                word_weights=draft.word_weights,
                plain_push=(
                    float(row_push[:, i].mean()),
                    float(np.quantile(row_push[:, i], 0.99)),
                    float(np.quantile(token_push[:, i], 0.99)),
                ),
            ),
            directions={s: draft.lenses[s].direction for s in sites},
            supplies=supplies[i],
            signatures=draft.signatures,
        )
        for i, draft in enumerate(drafts)
    )
    basis = bank_basis(concepts, main)
    reference = mean_interval(
        [explain(plain.gradients[main][rows].mean(0), basis).unexplained_mass for rows in _resamples(len(row_push))]
    )
    card = BankCard(
        name=settings.name,
        model=host.name,
        model_hash=host.content_hash,
        site=main,
        sites=tuple(sites),
        concepts=tuple(concept.card for concept in concepts),
        neutral_rows=tuple(neutral_rows["fit"]),
        held_out_rows=tuple(neutral_rows["held_out"]),
        reference_mass=reference,
    )
    return Bank(card=card, concepts=concepts)


def _resamples(count: int, *, times: int = 200, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(count, (count,), generator=generator) for _ in range(times)]


def bank_basis(concepts: Sequence[Concept], site: Site) -> Float[Tensor, "basis d_model"]:
    """What a bank can explain at a site: the span of its supplies and gradient signatures (float64)."""
    vectors = [concept.supplies[site] for concept in concepts] + [concept.signatures[site] for concept in concepts]
    return span_basis(torch.stack(vectors))
