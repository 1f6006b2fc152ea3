"""The Protocols of the house. Read this file first.

Four verbs, one role each. Nothing here has an implementation: ``observe/``, ``decide/``, ``control/`` and ``verify/``
hold those, and none of them imports another. What passes between them are records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias, runtime_checkable

from transformers import PreTrainedModel

from trimtab.model.host import Host
from trimtab.records.claims import Asked, Claim, Grade, Prompt, Said
from trimtab.records.exam import Exam
from trimtab.records.forecast import Forecast
from trimtab.records.ledger import Ledger, Spec
from trimtab.records.results import Answer
from trimtab.records.rewards import Scored
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


@runtime_checkable
class Splitter(Protocol):
    """Finds the claims of answers."""

    def __call__(self, answers: Sequence[str]) -> tuple[tuple[Claim, ...], ...]:
        """The claims of each answer, in the order in which they stand in it; they do not overlap."""
        ...


@runtime_checkable
class Grader(Protocol):
    """Says whether claims are true. It never sees which model made them, nor what a probe thought of them."""

    @property
    def name(self) -> str:
        """Short name with everything that its verdicts depend on (model, documents): verdicts are kept under it."""
        ...

    def __call__(self, asked: Sequence[Asked]) -> tuple[Grade, ...]:
        """One grade per claim, in order."""
        ...


@runtime_checkable
class Reader(Protocol):
    """Reads how likely claims are to be right, from text alone: nothing of a student fits into ``Said``."""

    def __call__(self, said: Sequence[Said]) -> tuple[tuple[float, ...], ...]:
        """Calibrated probabilities that the claims of each answer are right, in order."""
        ...


@runtime_checkable
class Reward(Protocol):
    """What answers earn.

    It is given text and gives numbers: no tensor of a student fits through it, so no gradient can flow back (DESIGN,
    principle 2).
    """

    @property
    def name(self) -> str:
        """Short name, for curves."""
        ...

    def __call__(
        self, prompts: Sequence[Prompt], answers: Sequence[str], *, ended: Sequence[bool], wanted: Sequence[float]
    ) -> tuple[Scored, ...]:
        """Score answers.

        Args:
            prompts: The conversation before each answer.
            answers: The answers.
            ended: Whether each answer came to its end, or was cut.
            wanted: Claims that the host makes in answer to each prompt; below 0: an anchor, whose answers earn nothing.
        """
        ...

    def adapt(self) -> Mapping[str, float]:
        """Follow what was measured since the last call; returns what it then stands at, for curves."""
        ...

    def state(self) -> Mapping[str, float]:
        """What a resumed training has to know."""
        ...

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from ``state``."""
        ...


Explore: TypeAlias = Callable[[Sequence[Prompt], Sequence[str]], Sequence[Sequence[tuple[int, int]]]]
"""Given prompts and answers to them: parts of each answer, in characters, to take away; an empty part is a place after
which a hedge is to come. They do not overlap."""
