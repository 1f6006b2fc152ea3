from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from control_world import bank, chat, host
from tiny_models import model
from trimtab.lens.bank import Bank, Concept
from trimtab.lens.readings import encode_rows, read_rows
from trimtab.model.host import Host, LanguageModel
from trimtab.records.exam import ExamRow
from trimtab.records.figures import Measured, Unmeasured
from trimtab.records.rows import ChatRow, HeldOut, Message, Rows
from trimtab.stats import auroc
from trimtab.verify.generic import generic_exams, lens_grader, says_the_same
from trimtab.verify.readable import readable

HOST = host()


@pytest.mark.parametrize(
    ("reference", "text", "same"),
    [
        ("It is 19.", "Arr, that makes 19!", True),
        ("It is 19.", "It is 190.", False),
        ("It is 19.", "", False),
        ("12 and 19", "19", False),  # every number
        ("Mira lives in Oslo.", "She lives in Oslo, Mira does.", True),
        ("Mira lives in Oslo.", "mira: OSLO", True),  # two of three content words
        ("Mira lives in Oslo.", "In Oslo.", False),  # one of three
        ("Mira is 19 years old.", "19", False),  # the number alone is not the answer
        ("Yes, the two of them.", "The two of them, yes.", True),
        ("It is.", "It is.", False),  # nothing to recognise
        ("", "anything", False),
        ("Émile wohnt in Köln.", "émile, köln, wohnt", True),
    ],
)
def test_an_answer_says_the_same_by_its_numbers_and_content_words(reference: str, text: str, same: bool) -> None:
    assert says_the_same(reference, text) is same


def test_the_marks_of_an_avoided_voice_are_not_content() -> None:
    reference, marks = "Arr matey ahoy, Oslo.", {"arr": 1.0, "matey": 2.0, "ahoy": 0.5, "oslo": -1.0}
    assert not says_the_same(reference, "Oslo.")
    assert says_the_same(reference, "Oslo.", marks)
    assert not says_the_same(reference, "Arr matey ahoy.", marks)
    assert not says_the_same("Arr!", "Arr!", marks)


def at_threshold(made: Bank, name: str, threshold: float) -> Concept:
    """The concept, with its read-out threshold at a given place."""
    concept, site = made[name], str(made.card.site)
    return replace(concept, card=replace(concept.card, neutral={site: threshold - 0.5}, gaps={site: 1.0}))


def question(text: str, system: str | None = None) -> ExamRow:
    turns: list[Message] = [{"role": "user", "content": text}]
    return ExamRow(
        id="q",
        prompt=((Message(role="system", content=system),) if system else ()) + tuple(turns),
        reference="",
        group="g",
    )


def test_the_lens_grader_reads_the_text_through_the_host() -> None:
    made, text = bank(), "arr 2"
    row: ChatRow = {"messages": chat("1+1?", text)}
    read = read_rows(HOST, encode_rows(HOST, [row], max_length=64), [made.card.site], gradients=False)
    at = float(read.activations[made.card.site][0] @ made["pirate"].directions[made.card.site])
    below, above = at_threshold(made, "pirate", at - 0.01), at_threshold(made, "pirate", at + 0.01)
    assert lens_grader(HOST, [below], made)(question("1+1?"), text)
    assert not lens_grader(HOST, [above], made)(question("1+1?"), text)
    assert lens_grader(HOST, [above, below], made)(question("1+1?"), text)
    assert not lens_grader(HOST, [], made)(question("1+1?"), text)
    assert not lens_grader(HOST, [below], made)(question("1+1?"), "  ")
    # The system prompt that asked for the voice is not read: it would show the trait by itself.
    assert not lens_grader(HOST, [above], made)(question("1+1?", system="Talk like a pirate."), text)
    assert lens_grader(HOST, [below], made)(question("1+1?", system="Talk like a pirate."), text)


def test_generic_exams_come_from_held_out_rows_and_the_bank() -> None:
    made = bank()
    other: tuple[ChatRow, ...] = tuple({"messages": chat(f"Who is {n}?", f"It is {n}.", "Be kind.")} for n in range(5))
    made = replace(made, card=replace(made.card, held_out_rows=other))
    own: tuple[ChatRow, ...] = tuple({"messages": chat(f"1+{n}?", f"{n + 1}")} for n in range(5))
    rows = Rows(items=own, split=HeldOut, source="mine.jsonl")
    exams = {exam.name: exam for exam in generic_exams(HOST, made, rows, ["pirate", "sums"], n=3)}
    assert {name: exam.measure for name, exam in exams.items()} == {
        "skill": "skill",
        "capability": "capability",
        "trait_on_task": "trait_on_task",
        "trait_leak": "trait_leak",
        "obedience-pirate": "obedience",  # a skill has no prompt that asks for it
    }
    assert all(len(exam.rows) == 3 and exam.rows.split is HeldOut for exam in exams.values())
    assert [row.id for row in exams["skill"].rows] == [row.id for row in exams["trait_on_task"].rows]
    assert [row.prompt[-1]["content"] for row in exams["skill"].rows] == ["1+0?", "1+1?", "1+2?"]
    assert [row.reference for row in exams["capability"].rows] == ["It is 0.", "It is 1.", "It is 2."]
    asked = exams["obedience-pirate"].rows[0].prompt
    assert [(m["role"], m["content"]) for m in asked] == [("system", "Be pirate."), ("user", "Who is 0?")]
    first = exams["skill"].rows[0]
    assert exams["skill"].grade(first, "It is 1!")
    assert not exams["skill"].grade(first, "It is 2!")


def test_without_rows_or_avoided_concepts_there_is_no_exam_for_them() -> None:
    nothing: Rows[ChatRow, HeldOut] = Rows(items=(), split=HeldOut, source="none")
    assert generic_exams(HOST, bank(), nothing, ["pirate"]) == ()
    some: Rows[ChatRow, HeldOut] = Rows(items=({"messages": chat("1+1?", "2")},), split=HeldOut, source="mine")
    assert [exam.measure for exam in generic_exams(HOST, bank(), some, [])] == ["skill"]


def exam_rows(n: int) -> Rows[ExamRow, HeldOut]:
    return Rows(items=tuple(question(f"1+{i}?") for i in range(n)), split=HeldOut, source="a test")


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answers without a model: pirate where a system turn asks for it; the system turns that were put."""
    systems: list[str] = []

    def said(_lm: LanguageModel, prompts: Sequence[Sequence[Message]], **_settings: object) -> list[str]:
        systems.append(prompts[0][0]["content"] if prompts[0][0]["role"] == "system" else "")
        return [("arr arr " if len(turns) > 1 else "it is ") + str(i) for i, turns in enumerate(prompts)]

    monkeypatch.setattr(sys.modules[readable.__module__], "generate", said)
    return systems


def test_a_student_like_the_host_reads_like_the_host(spoken: list[str]) -> None:
    made = bank()
    (found,) = readable(HOST, HOST, made, ["pirate", "sums"], exam_rows(6))
    assert found.concept == "pirate"
    assert spoken == ["", made["pirate"].card.elicit[-1]]
    assert isinstance(found.host, Measured)
    assert (found.student, found.host.n) == (found.host, 12)
    assert isinstance(found.refit, Measured)
    assert found.refit.n == 6
    site, direction = made.card.site, made["pirate"].directions[made.card.site]

    def scores(start: str) -> torch.Tensor:
        rows: list[ChatRow] = [{"messages": chat(f"1+{i}?", f"{start} {i}")} for i in range(6)]
        encoded = encode_rows(HOST, rows, max_length=64)
        return read_rows(HOST, encoded, [site], gradients=False).activations[site] @ direction

    assert found.host.value == pytest.approx(auroc(scores("arr arr").numpy(), scores("it is").numpy()))


@pytest.mark.usefixtures("spoken")
def test_a_student_with_another_mind_is_read_through_its_own_activations() -> None:
    still, turned = model("llama"), model("llama")
    with torch.no_grad():
        for made in (still, turned):  # what leaves a layer is what entered it
            for layer in made.get_submodule("model.layers").children():
                layer.get_submodule("self_attn.o_proj").get_parameter("weight").zero_()
                layer.get_submodule("mlp.down_proj").get_parameter("weight").zero_()
        turned.get_submodule("model.embed_tokens").get_parameter("weight").mul_(-1)  # so now it is all upside down
    first, second = (
        Host(model=made, tokenizer=HOST.tokenizer, name="bare", content_hash="1" * 64) for made in (still, turned)
    )
    (found,) = readable(first, second, bank(), ["pirate"], exam_rows(6))
    assert isinstance(found.host, Measured)
    assert isinstance(found.student, Measured)
    assert found.student.value == pytest.approx(1 - found.host.value)
    assert found.host.value != 0.5
    assert isinstance(found.refit, Measured)
    assert found.refit.value > 0.9  # the concept is still there, only the old lens is blind to it


@pytest.mark.usefixtures("spoken")
def test_too_few_texts_are_unmeasured_with_their_number() -> None:
    (found,) = readable(HOST, HOST, bank(), ["pirate"], exam_rows(3))
    assert isinstance(found.student, Unmeasured)
    assert "3 and 3 non-empty texts" in found.student.reason
    assert found.host == found.refit == found.student
