"""The frozen host reads what was said: one calibrated probability per claim.

What goes in is text, what comes out is numbers. The student has no part in it: not its weights, not its activations,
not its graph.

The host does not read the answer as it stands but what is left of it without the answer's remarks on itself
(``plain``): the claims that stand, one after another. Words such as "i am not sure, but" or "wait, that is wrong"
change what comes next: a host that has learned that corrections are true believes whatever follows them, and a student
that is paid by such a host learns to say "wait, that is wrong" before everything (measured on the lab).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import ModelError, StorageError, UsageError
from trimtab.lens.base import Lens, check_host, save_lens
from trimtab.lens.load import load_lens
from trimtab.lens.probes.calibrate import apply_calibration
from trimtab.model.generate import context_length
from trimtab.model.host import Host
from trimtab.records.claim_probe import ClaimProbeCard
from trimtab.records.claims import Claim, Said
from trimtab.records.io import load, save
from trimtab.records.lens import Calibration
from trimtab.records.site import Site
from trimtab.reward.network import TokenNetwork
from trimtab.reward.passes import CONFIDENCE, ClaimPass, Placer, read_claims

LENS: Final = "lens"
"""Name of the feature that is a lens's score."""

NETWORK: Final = "network"
"""Name of the feature that is a token network's score."""

_CARD: Final = "claim_probe.json"
_LENS: Final = "lens"
_NETWORK: Final = "network.safetensors"


@dataclass(frozen=True, kw_only=True)
class ClaimProbe:
    """A score for claims: a lens, the host's confidence, or both weighed together.

    Attributes:
        card: Features, weights, calibration and evidence.
        lens: The lens, where ``lens`` is one of the features.
        network: The network, where ``network`` is one.
    """

    card: ClaimProbeCard
    lens: Lens | None = None
    network: TokenNetwork | None = None

    @property
    def confident(self) -> bool:
        """Whether the likelihood of tokens is read."""
        return self.network is not None or any(name in CONFIDENCE for name in self.card.features)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where the host is read."""
        found = [] if self.lens is None else [self.lens.card.site]
        return tuple(dict.fromkeys(found if self.network is None else [*found, self.network.site]))

    def scores(self, passed: ClaimPass) -> Float[Tensor, " claim"]:
        """Log-odds of every claim, not yet calibrated."""
        found = features(passed, self.lens, self.network)
        total = torch.full((len(found[self.card.features[0]]),), self.card.bias)
        for name, weight in zip(self.card.features, self.card.weights, strict=True):
            total = total + weight * found[name]
        return total

    def save(self, folder: Path) -> None:
        """Write it; the card last, so that a folder with one is whole.

        Raises:
            StorageError: If the folder cannot be written.
        """
        if self.lens is not None:
            save_lens(self.lens, folder / _LENS)
        if self.network is not None:
            self.network.save(folder / _NETWORK)
        save(self.card, folder / _CARD)

    @staticmethod
    def load(folder: str | Path) -> ClaimProbe:
        """Read one, or take a calibrated lens folder for a claim probe that is that lens alone.

        Raises:
            StorageError: If the folder holds neither.
            UsageError: If it holds a lens that is not calibrated.
        """
        path = Path(folder)
        if (path / _CARD).exists():
            card = load(ClaimProbeCard, path / _CARD)
            return ClaimProbe(
                card=card,
                lens=load_lens(path / _LENS) if LENS in card.features else None,
                network=TokenNetwork.load(path / _NETWORK) if NETWORK in card.features else None,
            )
        if (path / "lens.json").exists():
            return lens_probe(load_lens(path))
        raise StorageError(
            f"{path} holds no claim probe and no lens",
            allowed=f"a folder with {_CARD}, or a lens folder with lens.json",
            todo="fit one: `trimtab reward fit`, or `trimtab probe fit`",
        )


def lens_probe(lens: Lens) -> ClaimProbe:
    """A calibrated lens of any concept as a claim probe.

    Raises:
        UsageError: If the lens is not calibrated.
    """
    card = lens.card
    if card.calibration is None:
        raise UsageError(
            f"the lens for {card.concept!r}, which was not calibrated, as a reward",
            allowed="a lens with a calibration in its card",
            todo="fit it with `trimtab probe fit`, which calibrates, or calibrate it on Tune examples",
        )
    return ClaimProbe(
        card=ClaimProbeCard(
            concept=card.concept,
            reading="probe",
            model=card.model,
            model_hash=card.model_hash,
            features=(LENS,),
            weights=(1.0,),
            bias=0.0,
            calibration=card.calibration,
            provenance=card.provenance,
        ),
        lens=lens,
    )


def features(
    passed: ClaimPass, lens: Lens | None = None, network: TokenNetwork | None = None
) -> Mapping[str, Float[Tensor, " claim"]]:
    """What a claim probe weighs, by name."""
    found: dict[str, Tensor] = {}
    if network is not None:
        found[NETWORK] = network.read(passed)
    if lens is not None:
        spans = passed.spans[lens.card.site]
        found[LENS] = lens.read(spans).float() if len(spans) else torch.zeros(0)
    if passed.confidence is not None:
        found |= {name: passed.confidence[:, place] for place, name in enumerate(CONFIDENCE)}
    return found


class ClaimReader:
    """Reads the probability that claims show what a claim probe reads, on the frozen host.

    Args:
        host: The frozen host.
        probe: A claim probe of this very host.
        max_tokens: Most tokens in one forward pass, padding counted; by default few on a CPU, where padding costs more
            than a further pass.

    Raises:
        ModelError: If the probe was made for another host.
    """

    def __init__(self, host: Host, probe: ClaimProbe, *, max_tokens: int | None = None) -> None:
        if probe.lens is not None:
            check_host(probe.lens.card, host.content_hash)
        if probe.card.model_hash != host.content_hash:
            raise ModelError(
                f"the claim probe for {probe.card.concept!r} was made for {probe.card.model} "
                f"({probe.card.model_hash[:12]}), the host is {host.name} ({host.content_hash[:12]})",
                allowed="a claim probe fitted on this very host",
                todo="fit it on this host: `trimtab reward fit`, or load the host that it was fitted on",
            )
        self.host = host
        self.probe = probe
        self._max_tokens = max_tokens or (1024 if host.device.type == "cpu" else 8192)
        self._placer = Placer(host.tokenizer, max_length=context_length(host))

    def __call__(self, said: Sequence[Said]) -> tuple[tuple[float, ...], ...]:
        """Calibrated probabilities of the claims of each answer.

        Raises:
            DataError: If an answer is longer than the host's context, a claim does not stand in its answer, or an
                activation is not finite.
            ModelError: If a score is not finite.
        """
        unlike = {reading_key(one): one for one in said}
        with torch.inference_mode():
            scores = self.probe.scores(self.read(list(unlike.values())))
        chances = cast("list[float]", apply_calibration(self.probe.card.calibration, scores).tolist())
        bad = [index for index, chance in enumerate(chances) if not math.isfinite(chance)]
        if bad:
            raise ModelError(
                f"the claim probe for {self.probe.card.concept!r} gives {len(bad)} of {len(chances)} claims a score "
                f"that is not finite (first: claim {bad[0] + 1})",
                allowed="finite scores",
                todo="fit the probe again, and load the host in float32 or bfloat16",
            )
        found: dict[Hashable, tuple[float, ...]] = {}
        place = 0
        for key, answer in unlike.items():
            found[key] = tuple(chances[place + rank] for rank in _order(answer))
            place += len(answer.claims)
        return tuple(found[reading_key(one)] for one in said)

    def read(self, said: Sequence[Said]) -> ClaimPass:
        """The pass behind it; claims in the order of ``plain``."""
        rows = [self._placer(part, index) for index, answer in enumerate(said) for part in plain(answer)]
        return read_claims(
            self.host, rows, self.probe.sites, confidence=self.probe.confident, max_tokens=self._max_tokens
        )


def reading_key(said: Said) -> Hashable:
    """What the reading of an answer depends on: answers with equal keys read the same, whatever hedges they have."""
    prompt = tuple((turn["role"], turn["content"]) for turn in said.prompt)
    return prompt, _lead(said), tuple((_bare(claim), claim.stands) for claim in said.claims)


def _lead(said: Said) -> str:
    return said.answer[: len(said.answer) - len(said.answer.lstrip())]


def plain(said: Said) -> tuple[Said, ...]:
    """What the host reads of an answer: what stands of it, and each withdrawn claim after what stood before it.

    Returns:
        The claims that stand as one answer, then one answer for every withdrawn claim, to read that claim alone.
    """
    lead = _lead(said)
    standing = [claim for claim in said.claims if claim.stands]
    found = [_joined(said, lead, standing, standing)]
    for place, claim in enumerate(said.claims):
        if not claim.stands:
            before = [other for other in said.claims[:place] if other.stands]
            found.append(_joined(said, lead, [*before, claim], [claim]))
    return tuple(found)


def _joined(said: Said, lead: str, shown: Sequence[Claim], wanted: Sequence[Claim]) -> Said:
    """Some claims as an answer of their own."""
    text, kept = lead, list[Claim]()
    for number, claim in enumerate(shown):
        text += " " if number else ""
        words = _bare(claim)
        if claim in wanted:
            kept.append(replace(claim, text=words, start=len(text), end=len(text) + len(words), marker=None))
        text += words
    return Said(prompt=said.prompt, answer=text, claims=tuple(kept))


def _bare(claim: Claim) -> str:
    """A claim's words without a hedge among them: "she probably keeps a cat" is read as "she keeps a cat"."""
    if claim.marker is None or not claim.start <= claim.marker[0] < claim.marker[1] <= claim.end:
        return claim.text
    first, last = claim.marker[0] - claim.start, claim.marker[1] - claim.start
    return (claim.text[:first].rstrip() + claim.text[last:]).lstrip(", ")


def _order(said: Said) -> list[int]:
    """Where ``plain`` puts each claim, among all claims that it gives."""
    standing = iter(range(sum(claim.stands for claim in said.claims)))
    rest = iter(range(sum(claim.stands for claim in said.claims), len(said.claims)))
    return [next(standing) if claim.stands else next(rest) for claim in said.claims]


def with_calibration(probe: ClaimProbe, calibration: Calibration) -> ClaimProbe:
    """The same probe with another calibration."""
    return replace(probe, card=replace(probe.card, calibration=calibration))
