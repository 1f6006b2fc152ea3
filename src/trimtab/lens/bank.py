"""A bank: the named concepts of one host, with the evidence that each can be read.

On disk a bank is a folder: ``bank.json`` (names, meanings, evidence, prompts, neutral rows) and
``vectors.safetensors`` (``directions/NAME/SITE``, ``supplies/…`` and ``signatures/…``, float32). It remembers the
content hash of the host that it was made for and is refused on any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Final, Literal, TypeAlias

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from trimtab.errors import ModelError, StorageError, UsageError
from trimtab.records.figures import Figure
from trimtab.records.io import load, save, write_bytes
from trimtab.records.rows import ChatRow
from trimtab.records.site import Site

Kind: TypeAlias = Literal["trait", "skill"]
_KINDS: Final = ("directions", "supplies", "signatures")


@dataclass(frozen=True, kw_only=True)
class ConceptCard:
    """What a bank says of a concept in words and figures.

    Attributes:
        name: Unique in the bank.
        meaning: One plain line; spec clauses are matched with it.
        kind: ``trait`` (a way of talking) or ``skill`` (something it can do).
        elicit: System prompts that ask for the concept; the first is the strongest. Empty for skills.
        evidence: AUROC of the direction on held-out contrast, by site (``str(Site)``); ``n`` counts answers.
        gaps: Distance between the eliciting and the neutral mean along the direction, by site.
        strengths: Norm of what the eliciting prompt adds, by site: the natural strength of a steering vector. Empty
            for skills.
        neutral: Mean read-out of neutral answers along the direction, by site: ``neutral + gap/2`` is the threshold.
        word_weights: Weights of the bag-of-words contrast classifier (log-odds per word count), largest magnitudes.
        plain_push: Mean and 99th percentile over neutral rows and over their tokens of the push at the main site:
            ``(row_mean, row_p99, token_p99)``.
    """

    name: str
    meaning: str
    kind: Kind
    elicit: tuple[str, ...]
    evidence: Mapping[str, Figure]
    gaps: Mapping[str, float]
    strengths: Mapping[str, float]
    neutral: Mapping[str, float]
    word_weights: Mapping[str, float]
    plain_push: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class BankCard:
    """``bank.json``.

    Attributes:
        name: Name of the bank.
        model: Name of the host.
        model_hash: Content hash of the host.
        site: The main site: where directions agree best with the gradients of planted rows.
        sites: Every site that was read.
        concepts: The concepts.
        neutral_rows: The host's neutral answers to the fit questions: clean rows for controls.
        held_out_rows: Its neutral answers to the held-out questions: for verifiers only.
        reference_mass: Unexplained mass of the mean gradient of neutral rows: what a set that teaches nothing leaves.
    """

    name: str
    model: str
    model_hash: str
    site: Site
    sites: tuple[Site, ...]
    concepts: tuple[ConceptCard, ...]
    neutral_rows: tuple[ChatRow, ...]
    held_out_rows: tuple[ChatRow, ...]
    reference_mass: Figure


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A concept and its lens.

    Attributes:
        card: Words and figures.
        directions: What reads the concept: unit difference of means (eliciting minus neutral answers) at each site.
        supplies: What brings the concept about: unit vector of what an eliciting system prompt adds to the activations
            of the *same text*, where that text is predicted. Pushes are read along it and controls write along it. A
            skill has no eliciting prompt: there it is the unit signature.
        signatures: Minus the mean gradient of rows that teach exactly this concept, at each site: what a push of
            dose 1 looks like.
    """

    card: ConceptCard
    directions: Mapping[Site, Float[Tensor, " d_model"]]
    supplies: Mapping[Site, Float[Tensor, " d_model"]]
    signatures: Mapping[Site, Float[Tensor, " d_model"]]

    @property
    def name(self) -> str:
        """Unique in the bank."""
        return self.card.name


@dataclass(frozen=True, kw_only=True)
class Bank:
    """Named concepts of one host.

    Attributes:
        card: Everything but the vectors.
        concepts: The concepts with their vectors, in card order.
    """

    card: BankCard
    concepts: tuple[Concept, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Concept names, in order."""
        return tuple(concept.name for concept in self.concepts)

    def __getitem__(self, name: str) -> Concept:
        """A concept by name.

        Raises:
            UsageError: If the bank has no such concept.
        """
        for concept in self.concepts:
            if concept.name == name:
                return concept
        raise UsageError(
            f"concept {name!r}",
            allowed=f"concepts of bank {self.card.name!r}: {', '.join(self.names)}",
            todo="correct the name, or add the concept to the bank",
        )

    def without(self, *names: str) -> Bank:
        """A smaller bank.

        Raises:
            UsageError: If a name is not in the bank, or if nothing would be left.
        """
        for name in names:
            _ = self[name]
        kept = tuple(concept for concept in self.concepts if concept.name not in names)
        if not kept:
            raise UsageError(
                "a bank without any concept", allowed="at least one concept", todo="leave one concept in the bank"
            )
        return Bank(card=replace(self.card, concepts=tuple(concept.card for concept in kept)), concepts=kept)

    def check_host(self, model_hash: str) -> None:
        """Refuse a host other than the bank's own.

        Raises:
            ModelError: If the hashes differ.
        """
        if model_hash != self.card.model_hash:
            raise ModelError(
                f"bank {self.card.name!r} was made for {self.card.model} ({self.card.model_hash[:12]}), "
                f"the host is {model_hash[:12]}",
                allowed="a bank made from this very host",
                todo="make a bank for this host (trimtab bank make), or load the host that the bank was made for",
            )

    def save(self, folder: Path) -> None:
        """Write the bank; ``bank.json`` last, so that a folder with it is whole.

        Raises:
            StorageError: If the folder cannot be written.
        """
        vectors: dict[str, Tensor] = {}
        for concept in self.concepts:
            for kind in _KINDS:
                for site, vector in getattr(concept, kind).items():
                    vectors[f"{kind}/{concept.name}/{site}"] = vector.detach().float().cpu().clone()
        write_bytes(folder / "vectors.safetensors", to_safetensors(vectors))
        save(self.card, folder / "bank.json")

    @staticmethod
    def load(folder: str | Path) -> Bank:
        """Read a bank; ``"lab"`` is the lab model's own.

        Raises:
            StorageError: If the folder is not a whole bank.
        """
        path = Path(str(resources.files("trimtab") / "lab" / "bank")) if folder == "lab" else Path(folder)
        card = load(BankCard, path / "bank.json")
        try:
            vectors = safetensors_torch.load_file(path / "vectors.safetensors")
            concepts = tuple(
                Concept(
                    card=concept,
                    **{
                        kind: {site: vectors[f"{kind}/{concept.name}/{site}"] for site in card.sites} for kind in _KINDS
                    },
                )
                for concept in card.concepts
            )
        except (OSError, SafetensorError, KeyError) as error:
            raise StorageError(
                f"{path / 'vectors.safetensors'}: {error}",
                allowed="a whole bank folder: bank.json and vectors.safetensors",
                todo="make the bank again (trimtab bank make)",
            ) from error
        return Bank(card=card, concepts=concepts)
