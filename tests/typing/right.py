"""What the type checkers must accept: each call here has a twin in ``wrong.py`` that they must refuse."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import assert_never, assert_type

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel
from typing_extensions import override

from trimtab.data.read import read_chat, read_preferences, read_prompts
from trimtab.data.split import split_rows
from trimtab.model.hooks import ReadHook, WriteHook, gradient_writing, reading, writing
from trimtab.model.host import Host
from trimtab.records.exam import Exam, ExamRow
from trimtab.records.figures import Figure, Measured, Unmeasured
from trimtab.records.ledger import Ruling
from trimtab.records.rows import ChatRow, Fit, HeldOut, PreferenceRow, PromptRow, Rows, Split, Tune
from trimtab.records.site import Site
from trimtab.records.training import Encoded, Surface, TrainingRow
from trimtab.roles import Control, Observer, Verifier


def splits_are_part_of_the_type(path: str) -> None:
    assert_type(read_chat(path), Rows[ChatRow, Fit])
    assert_type(read_chat(path, split=Tune), Rows[ChatRow, Tune])
    assert_type(read_chat(path, split=HeldOut, skip_bad=True), Rows[ChatRow, HeldOut])
    assert_type(read_prompts(path, split=HeldOut), Rows[PromptRow, HeldOut])
    assert_type(read_preferences(path), Rows[PreferenceRow, Fit])
    fit, held = split_rows(read_chat(path), held_out_share=0.2, seed=0)
    assert_type(fit, Rows[ChatRow, Fit])
    assert_type(held, Rows[ChatRow, HeldOut])


def rows_of_any_split(rows: Rows[ChatRow, Split]) -> int:
    return len(rows)


def rows_go_where_their_split_may_go(observe: Observer, host: Host, path: str) -> None:
    observe(host, read_chat(path))
    observe(host, read_chat(path, split=Tune))
    rows_of_any_split(read_chat(path, split=HeldOut))


def an_exam(rows: Rows[ExamRow, HeldOut]) -> Exam:
    return Exam(measure="skill", name="sums", rows=rows, grade=lambda row, answer: answer == row.reference)


def look(activation: Float[Tensor, "batch token d_model"], site: Site) -> None:
    del activation, site


def push(activation: Float[Tensor, "batch token d_model"], site: Site) -> Float[Tensor, "batch token d_model"]:
    del site
    return activation + 1


READ: ReadHook = look
WRITE: WriteHook = push


def hooks(model: PreTrainedModel) -> None:
    with reading(model, {Site(0): look}), writing(model, {Site(0, "mlp_out"): push}):
        pass
    with gradient_writing(model, {Site(0, "attn_out"): push}):
        pass


def the_student_is_not_the_host(verify: Verifier, host: Host, exams: Sequence[Exam]) -> None:
    verify(host, host.student(), exams)


def a_figure_is_narrowed_before_it_is_used(figure: Figure) -> float:
    match figure:
        case Measured():
            return figure.high - figure.low
        case Unmeasured():
            assert_type(figure.value, None)
            return 0.0
        case _:
            assert_never(figure)


def a_ruling() -> Ruling:
    return Ruling(concept="pirate", verdict="avoid", reason="asked", by="rule")


class Nothing:
    """A control that does nothing, which is all that the role asks for."""

    @property
    def name(self) -> str:
        return "nothing"

    @property
    def surface(self) -> Surface:
        return "data"

    @property
    def fights_gradient(self) -> bool:
        return False

    def rewrite(self, rows: Sequence[TrainingRow]) -> Sequence[TrainingRow]:
        return rows

    def relabel(self, encoded: Encoded) -> Encoded:
        return encoded

    def attach(self, student: PreTrainedModel) -> AbstractContextManager[None]:
        del student
        return nullcontext()


class StillNothing(Nothing):
    @property
    @override
    def name(self) -> str:
        return "still nothing"


CONTROLS: tuple[Control, ...] = (Nothing(), StillNothing())
