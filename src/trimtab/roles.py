"""The Protocols of the house. Read this file first.

Four verbs, one role each. Nothing here has an implementation: ``observe/``, ``decide/``, ``control/`` and ``verify/``
hold those, and none of them imports another. What passes between them are records.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from transformers import PreTrainedModel

from trimtab.model.host import Host
from trimtab.records.exam import Exam
from trimtab.records.forecast import Forecast
from trimtab.records.ledger import Ledger, Spec
from trimtab.records.results import Answer
from trimtab.records.rows import ChatRow, Fit, Rows, Tune
from trimtab.records.training import Encoded, Surface, TrainingRow


@runtime_checkable
class Observer(Protocol):
    """Reads what a dataset would teach; changes nothing. Takes ``Fit`` or ``Tune`` rows, never ``HeldOut``."""

    def __call__(self, host: Host, rows: Rows[ChatRow, Fit] | Rows[ChatRow, Tune]) -> Forecast:
        """Forecast what training on ``rows`` would teach ``host``."""
        ...


@runtime_checkable
class Decider(Protocol):
    """Turns a forecast and a spec into rulings."""

    def __call__(self, forecast: Forecast, spec: Spec) -> Ledger:
        """One ruling per concept of the forecast."""
        ...


@runtime_checkable
class Control(Protocol):
    """One training-time intervention.

    A control declares the surface it works on and may change nothing else; ``control.prove`` checks that on the model
    at hand before training starts. At strength 0 a control is bit for bit no control. The three methods are called in
    the order in which they stand here, once each per student.
    """

    @property
    def name(self) -> str:
        """Short name, unique among controls."""
        ...

    @property
    def surface(self) -> Surface:
        """What it changes."""
        ...

    @property
    def fights_gradient(self) -> bool:
        """Whether it blocks the gradient instead of changing what the loss wants (baselines only)."""
        ...

    def rewrite(self, rows: Sequence[TrainingRow]) -> Sequence[TrainingRow]:
        """Rows in, rows out (surfaces ``data`` and ``prompt``); every other control returns them as they are."""
        ...

    def relabel(self, encoded: Encoded) -> Encoded:
        """Take tokens out of the loss (surface ``loss``); every other control returns it as it is."""
        ...

    def attach(self, student: PreTrainedModel) -> AbstractContextManager[None]:
        """Hook the student for the time of training (surfaces ``activations`` and ``gradient``)."""
        ...


@runtime_checkable
class Verifier(Protocol):
    """Asks a model held-out questions and grades the answers. Exams hold ``HeldOut`` rows by type."""

    def __call__(self, host: Host, student: PreTrainedModel, exams: Sequence[Exam]) -> tuple[Answer, ...]:
        """Every answer to every exam, in exam order."""
        ...
