"""What the type checkers must refuse.

Every marked line is an error for mypy and for pyright. Both are set to report an ignore comment that is not needed, so
the day a checker would let one of these lines pass, the check fails here.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedModel

from trimtab.data.read import read_chat
from trimtab.data.split import split_rows
from trimtab.llm.prompts import Request
from trimtab.llm.replies import parse_text
from trimtab.model.hooks import ReadHook, WriteHook, gradient_writing, reading, writing
from trimtab.model.host import Host
from trimtab.records.claims import Claim, Prompt, Said
from trimtab.records.exam import Exam, ExamRow
from trimtab.records.figures import Figure, Measured, Unmeasured
from trimtab.records.ledger import Ruling
from trimtab.records.rows import ChatRow, Fit, HeldOut, Message, Rows, Split, Tune
from trimtab.records.site import Site
from trimtab.records.training import Encoded
from trimtab.roles import Control, Observer, Reader, Reward, Verifier


def look(activation: Tensor, site: Site) -> None:
    del activation, site


def push(activation: Tensor, site: Site) -> Tensor:
    del site
    return activation + 1


def what_steers_may_not_judge(observe: Observer, host: Host, path: str, any_rows: Rows[ChatRow, Split]) -> None:
    held_out = read_chat(path, split=HeldOut)
    observe(host, held_out)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    observe(host, any_rows)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    split_rows(held_out, held_out_share=0.5, seed=0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    fit: Rows[ChatRow, Fit] = read_chat(path, split=Tune)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    del fit


def what_judges_may_not_have_steered(rows: Rows[ExamRow, Fit], tune: Rows[ExamRow, Tune]) -> None:
    Exam(measure="skill", name="sums", rows=rows, grade=lambda row, answer: answer == row.reference)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Exam(measure="skill", name="sums", rows=tune, grade=lambda row, answer: answer == row.reference)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def a_logger_is_not_a_steering_hook(model: PreTrainedModel) -> None:
    writing(model, {Site(0): look})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    gradient_writing(model, {Site(0): look})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    reading(model, {Site(0): push})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    write: WriteHook = look  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    read: ReadHook = push  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    del write, read


def the_host_is_not_a_student(verify: Verifier, host: Host, student: PreTrainedModel, exams: Sequence[Exam]) -> None:
    verify(host, host, exams)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    verify(student, student, exams)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def no_tensor_of_a_student_goes_into_a_reward(read: Reader, reward: Reward, prompt: Prompt, hidden: Tensor) -> None:
    read(hidden)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    read([hidden])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    Said(prompt=prompt, answer=hidden, claims=())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Claim(text="a claim.", start=0, end=hidden)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    reward([prompt], hidden, ended=[True], wanted=[1.0])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    reward([prompt], [hidden], ended=[True], wanted=[1.0])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    reward([prompt], ["a claim."], ended=[True], wanted=[hidden])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    loss: Tensor = reward([prompt], ["a claim."], ended=[True], wanted=[1.0])[0].total  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    del loss


def text_of_a_dataset_is_no_instruction(row: str) -> None:
    """Only pyright tells literal text from other text; to mypy a ``LiteralString`` is a ``str``."""
    Request(purpose="grade", system=row, user=(), parse=parse_text)  # pyright: ignore[reportArgumentType]
    Request(purpose="grade", system="Grade it.", user=(row,), parse=parse_text)  # pyright: ignore[reportArgumentType]
    Request(purpose="grade", system=f"Grade {row}.", user=(), parse=parse_text)  # pyright: ignore[reportArgumentType]


def misspelt() -> None:
    Site(0, "resid")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Site("0")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Ruling(concept="pirate", verdict="forbid", reason="asked", by="rule")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    turn: Message = {"role": "human", "content": "hi"}  # type: ignore[typeddict-item]  # pyright: ignore[reportAssignmentType]
    row: ChatRow = {"message": [turn]}  # type: ignore[typeddict-item, typeddict-unknown-key]  # pyright: ignore[reportAssignmentType]
    del row


def missing_is_not_zero(figure: Figure, unmeasured: Unmeasured) -> None:
    high: float = figure.high  # type: ignore[union-attr]  # pyright: ignore[reportUnknownVariableType, reportAttributeAccessIssue]
    value: float = figure.value  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    measured: Measured = unmeasured  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    del high, value, measured


def records_do_not_change(measured: Measured, encoded: Encoded) -> None:
    measured.value = 1.0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    encoded.labels = ()  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    Measured(0.5, 0.4, 0.6, 10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


class Unmarked:
    """A control that does not say whether it fights the gradient."""

    name = "unmarked"
    surface = "gradient"


CONTROL: Control = Unmarked()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
