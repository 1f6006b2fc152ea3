"""What a control leaves alone. A control inherits one class for each of the three things that it does *not* do."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

from transformers import PreTrainedModel

from trimtab.records.training import Encoded, TrainingRow


class KeepsRows:
    """Rewrites no row."""

    def rewrite(self, rows: Sequence[TrainingRow]) -> Sequence[TrainingRow]:
        """The very same rows."""
        return rows


class KeepsLabels:
    """Takes no token out of the loss."""

    def relabel(self, encoded: Encoded) -> Encoded:
        """The very same tokens and labels."""
        return encoded


class AttachesNothing:
    """Hooks nothing."""

    def attach(self, student: PreTrainedModel) -> AbstractContextManager[None]:  # noqa: ARG002
        """A context that does nothing."""
        return nullcontext()


@runtime_checkable
class Dosed(Protocol):
    """A control that can be turned down; at strength 0 it is bit for bit no control."""

    @property
    def strength(self) -> float:
        """How much of it is applied."""
        ...
