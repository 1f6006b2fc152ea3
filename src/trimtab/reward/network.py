"""A small network on every token of a claim: its activation, how likely the host found it, how sure the host was.

Where a claim goes wrong is one token, the value; a reading of the last token has to remember it, and sums over tokens
drown it in what was never in doubt. The network scores every token by itself, and the highest score counts. It is
trained with the span-max annealed loss (2509.03531; ``lens.probes.stream``): first every token of a wrong claim is
asked for, then one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.nn import functional

from trimtab.errors import StorageError
from trimtab.lens.spans import Spans
from trimtab.records.io import write_bytes
from trimtab.records.site import Site
from trimtab.reward.passes import ClaimPass
from trimtab.stats import auroc

HIDDEN: Final = 32
EPOCHS: Final = 100
LEARNING_RATE: Final = 3e-3
WEIGHT_DECAY: Final = 0.3
DROPOUT: Final = 0.2
_SITE: Final = "site"
_TENSORS: Final = ("first", "first_bias", "second", "second_bias")
LOOK: Final = 10
"""Epochs between looks at Tune."""


@dataclass(frozen=True, kw_only=True)
class TokenNetwork:
    """``z_t = v · gelu(W x_t + b) + c`` on standardised ``x_t = (h_t, log p_t, entropy_t)``; doubt is ``max_t z_t``.

    Attributes:
        site: Where ``h`` is read.
        first: ``W`` for raw inputs, ``[hidden, d_model + 2]``.
        first_bias: ``b`` for raw inputs.
        second: ``v``.
        second_bias: ``c``, of one element.
    """

    site: Site
    first: Float[Tensor, "hidden feature"]
    first_bias: Float[Tensor, " hidden"]
    second: Float[Tensor, " hidden"]
    second_bias: Float[Tensor, " one"]

    def read(self, passed: ClaimPass) -> Float[Tensor, " claim"]:
        """Minus the doubt in each claim: higher means more likely right."""
        spans = passed.spans[self.site]
        if not len(spans):
            return torch.zeros(0)
        hidden = functional.gelu(_inputs(passed, self.site) @ self.first.T + self.first_bias)
        return -spans.max_of(hidden @ self.second + self.second_bias)

    def save(self, path: Path) -> None:
        """Write it.

        Raises:
            StorageError: If the file cannot be written.
        """
        tensors = {name: getattr(self, name) for name in _TENSORS}
        tensors[_SITE] = torch.tensor(list(str(self.site).encode()), dtype=torch.uint8)
        write_bytes(path, to_safetensors({name: tensor.contiguous() for name, tensor in tensors.items()}))

    @staticmethod
    def load(path: Path) -> TokenNetwork:
        """Read one.

        Raises:
            StorageError: If the file is missing or damaged.
        """
        try:
            tensors = safetensors_torch.load_file(path)
            site = Site.parse(bytes(tensors[_SITE].tolist()).decode())
            return TokenNetwork(site=site, **{name: tensors[name] for name in _TENSORS})
        except (OSError, SafetensorError, KeyError, UnicodeDecodeError) as error:
            raise StorageError(
                f"{path}: {error}", allowed="a network that trimtab wrote", todo="fit the claim probe again"
            ) from error


def _inputs(passed: ClaimPass, site: Site) -> Float[Tensor, "token feature"]:
    assert passed.sure is not None
    return torch.cat([passed.spans[site].values.float(), passed.sure], 1)


def fit_network(
    fit: ClaimPass,
    fit_labels: Bool[Tensor, " claim"],
    tune: ClaimPass,
    tune_labels: Bool[Tensor, " tuned"],
    sites: Sequence[Site],
    *,
    seed: int = 0,
) -> TokenNetwork:
    """Fit one network per site; site and length of training are chosen by the AUROC on Tune.

    Args:
        fit: Claims to learn from, with ``sure``.
        fit_labels: Whether each is right.
        tune: Claims to choose on.
        tune_labels: Whether each is right.
        sites: Where networks are tried.
        seed: Seed of first weights and dropout.
    """
    found: list[tuple[float, TokenNetwork]] = []
    for site in sites:
        inputs = _inputs(fit, site)
        mean, spread = inputs.mean(0), inputs.std(0).clamp_min(1e-6)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            network = _Trained((inputs - mean) / spread, fit.spans[site], fit_labels)
            for epoch in range(EPOCHS):
                network.step(epoch / EPOCHS)
                if (epoch + 1) % LOOK == 0:
                    taken = network.folded(site, mean, spread)
                    scores = taken.read(tune)
                    found.append((auroc(scores[tune_labels].numpy(), scores[~tune_labels].numpy()), taken))
    return max(found, key=lambda pair: pair[0])[1]


class _Trained:
    """A network in training."""

    def __init__(self, inputs: Float[Tensor, "token feature"], spans: Spans, labels: Bool[Tensor, " claim"]) -> None:
        self._inputs, self._spans = inputs, spans
        self._wrong = (~labels).float()
        self._owner = spans.owner
        self.first = nn.Linear(inputs.shape[1], HIDDEN)
        self.second = nn.Linear(HIDDEN, 1)
        self._optimizer = torch.optim.AdamW(
            [*self.first.parameters(), *self.second.parameters()], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )

    def step(self, progress: float) -> None:
        """One step of full-batch descent; the weight of the span term rises to 1 over the first half."""
        weight = min(1.0, 2 * progress)
        hidden = functional.dropout(functional.gelu(self.first(self._inputs)), DROPOUT)
        scores = self.second(hidden)[:, 0]
        token = functional.binary_cross_entropy_with_logits(scores, self._wrong[self._owner])
        span = functional.binary_cross_entropy_with_logits(self._spans.max_of(scores), self._wrong)
        loss = (1 - weight) * token + weight * span
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        self._optimizer.step()

    def folded(self, site: Site, mean: Tensor, spread: Tensor) -> TokenNetwork:
        """As it stands, for inputs that are not standardised."""
        weight = (self.first.weight / spread).detach().clone()
        return TokenNetwork(
            site=site,
            first=weight,
            first_bias=(self.first.bias - weight @ mean).detach().clone(),
            second=self.second.weight[0].detach().clone(),
            second_bias=self.second.bias.detach().clone(),
        )
