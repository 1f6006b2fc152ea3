"""Research only: a host's claim probe, read on a student's own activations.

No reward of this package is read so: ``train.research`` and the experiments on obfuscation are what this is for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel
from typing_extensions import override

from trimtab.errors import DataError, UsageError
from trimtab.lens.probes.linear import LogisticLens
from trimtab.model.base import LanguageModel
from trimtab.model.capture import evaluating
from trimtab.model.generate import context_length
from trimtab.model.hooks import writing
from trimtab.model.host import Host
from trimtab.model.sites import decoder
from trimtab.records.claims import Prompt, Said
from trimtab.records.figures import Figure, Unmeasured
from trimtab.records.rows import Fit, HeldOut, Tune
from trimtab.records.site import Site
from trimtab.reward.claims import rule_claims
from trimtab.reward.fit import GradedAnswers, fit_claim_probe
from trimtab.reward.passes import ClaimPass, Placer, Read, read_claims
from trimtab.reward.reading import ClaimProbe, ClaimReader, plain
from trimtab.roles import Splitter


class StudentReader(ClaimReader):
    """``ClaimReader`` that reads the same text with the same probe, but on a student's activations.

    Args:
        host: The host that the probe was fitted on.
        probe: A claim probe of this very host.
        student: Gives the student as it is now; of the host's architecture.
        max_tokens: Most tokens in one forward pass, padding counted.

    Raises:
        ModelError: If the probe was made for another host.
    """

    def __init__(
        self, host: Host, probe: ClaimProbe, student: Callable[[], LanguageModel], *, max_tokens: int = 8192
    ) -> None:
        super().__init__(host, probe, max_tokens=max_tokens)
        self._student = student

    @override
    def read(self, said: Sequence[Said]) -> ClaimPass:
        """The student's pass; claims in the order of ``plain``."""
        rows = [self._placer(part, index) for index, answer in enumerate(said) for part in plain(answer)]
        sites = self.probe.sites
        return read_claims(self._student(), rows, sites, confidence=self.probe.confident, max_tokens=self._max_tokens)


class GradientProbe:
    """A claim probe on a student's activations with the graph kept (``train.research.StudentProbe``).

    It reads what ``ClaimReader`` reads: the claims that stand, at the last token of each. The probe's own weights get
    no gradient; hedged and withdrawn claims, which a feature reward does not pay by the probe, are not read.

    Args:
        host: The host that the probe was fitted on.
        probe: A claim probe of this very host that is a logistic lens on the last token alone (``reading="probe"``).
        splitter: Finds claims.

    Raises:
        ModelError: If the probe was made for another host.
        UsageError: If the probe is of another kind.
    """

    def __init__(self, host: Host, probe: ClaimProbe, *, splitter: Splitter = rule_claims) -> None:
        ClaimReader(host, probe)
        lens = probe.lens
        if not isinstance(lens, LogisticLens) or lens.card.pooling != "last" or len(probe.card.features) != 1:
            pooling = "no lens" if lens is None else f"a {lens.card.kind} lens, pooling {lens.card.pooling}"
            raise UsageError(
                f"gradients through a claim probe of {', '.join(probe.card.features)} ({pooling})",
                allowed="a logistic lens on the last token of a claim, alone",
                todo='fit it with fit_claim_probe(..., reading="probe", poolings=("last",))',
            )
        scale = probe.card.weights[0] / probe.card.calibration.temperature
        self.site: Site = lens.card.site
        self._weight = lens.weight.detach() * scale
        self._bias = (
            lens.bias * scale + (probe.card.bias - probe.card.calibration.shift) / probe.card.calibration.temperature
        )
        self._splitter = splitter
        self._placer = Placer(host.tokenizer, max_length=context_length(host))

    def __call__(
        self, model: PreTrainedModel, prompts: Sequence[Prompt], answers: Sequence[str]
    ) -> Float[Tensor, " claim"]:
        """Calibrated log-odds that each asserted claim of the answers is right, in order."""
        said = [
            Said(prompt=prompt, answer=answer, claims=claims)
            for prompt, answer, claims in zip(prompts, answers, self._splitter(answers), strict=True)
        ]
        rows: list[Read] = []
        ends: list[tuple[int, int]] = []
        for index, one in enumerate(said):
            standing = [claim for claim in one.claims if claim.stands]
            row = self._placer(plain(one)[0], index)
            asserted = [
                row.positions[places[-1]]
                for claim, places in zip(standing, row.claims, strict=True)
                if claim.stance == "asserted"
            ]
            if asserted:
                ends += [(len(rows), place) for place in asserted]
                rows.append(row)
        if not rows:
            return torch.zeros(0, device=model.device)
        lines, places = torch.tensor(ends, device=model.device).T
        activation = _activations(model, rows, self.site)[lines, places]
        return activation.float() @ self._weight.to(activation.device) + self._bias


def _activations(model: PreTrainedModel, rows: Sequence[Read], site: Site) -> Float[Tensor, "row token d_model"]:
    """Activations of right-padded rows, with their graph."""
    width = max(len(row.input_ids) for row in rows)
    ids = torch.stack([functional.pad(torch.tensor(row.input_ids), (0, width - len(row.input_ids))) for row in rows])
    real = torch.arange(width)[None] < torch.tensor([len(row.input_ids) for row in rows])[:, None]
    found: list[Tensor] = []

    def keep(activation: Tensor, site: Site) -> Tensor:
        del site
        found.append(activation)
        return activation

    with evaluating(model), writing(model, {site: keep}):
        decoder(model)(input_ids=ids.to(model.device), attention_mask=real.long().to(model.device), use_cache=False)
    return found[0]


def refit_auroc(
    student: LanguageModel,
    site: Site,
    fit: GradedAnswers[Fit],
    tune: GradedAnswers[Tune],
    held_out: GradedAnswers[HeldOut],
    *,
    seed: int = 0,
) -> Figure:
    """AUROC on held-out claims of a probe that was fitted anew on a trained student's activations at the same site.

    Whether what the old probe no longer reads is still there to be read. The student is frozen by it.

    Args:
        student: A student whose training is over.
        site: Where the old probe reads.
        fit: Its own answers, graded, to learn from.
        tune: Its own answers to choose the penalty on.
        held_out: Its own answers to judge by.
        seed: Seed of resamples.

    Returns:
        The figure; ``n`` counts claims. ``Unmeasured`` where the student makes no right or no wrong claim in a split.
    """
    frozen = Host(
        model=student.model, tokenizer=student.tokenizer, name=student.name, content_hash=student.content_hash
    )
    try:
        probe = fit_claim_probe(
            frozen, fit, tune, held_out, reading="probe", sites=(site,), poolings=("last",), seed=seed
        )
    except DataError as error:
        return Unmeasured(reason=error.given)
    return probe.card.evidence["probe"].auroc
