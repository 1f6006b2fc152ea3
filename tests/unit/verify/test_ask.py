from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import pytest
import torch

from tiny_models import language_model
from trimtab.data.template import encode
from trimtab.model.generate import generate
from trimtab.model.host import LanguageModel
from trimtab.records.exam import Exam, ExamRow, Grade, Measure
from trimtab.records.figures import Measured, Unmeasured
from trimtab.records.rows import HeldOut, Message, Rows
from trimtab.records.training import IGNORED
from trimtab.verify.ask import ask, perplexity

LM = language_model("llama")


def exam(
    measure: Measure,
    name: str,
    asked: Sequence[str],
    *,
    grade: Grade = lambda _row, _text: True,
    tokens: int = 4,
    temperature: float = 0.0,
    references: Sequence[str] = (),
) -> Exam:
    rows = tuple(
        ExamRow(
            id=f"{name}-{i}",
            prompt=({"role": "user", "content": question},),
            reference=references[i] if references else "",
            group="sums",
        )
        for i, question in enumerate(asked)
    )
    return Exam(
        measure=measure,
        name=name,
        rows=Rows(items=rows, split=HeldOut, source="a test"),
        grade=grade,
        max_new_tokens=tokens,
        temperature=temperature,
    )


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float, list[str]]]:
    """What was generated: longest answer, temperature, questions."""
    calls: list[tuple[int, float, list[str]]] = []

    def counting(
        lm: LanguageModel,
        prompts: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        batch_size: int,
    ) -> list[str]:
        calls.append((max_new_tokens, temperature, [prompt[-1]["content"] for prompt in prompts]))
        return generate(
            lm, prompts, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, batch_size=batch_size
        )

    monkeypatch.setattr(sys.modules[ask.__module__], "generate", counting)
    return calls


def test_a_question_of_two_exams_is_asked_once_and_graded_twice(
    generated: list[tuple[int, float, list[str]]],
) -> None:
    seen: list[tuple[str, str]] = []

    def even(row: ExamRow, text: str) -> bool:
        seen.append((row.id, text))
        return int(row.id[-1]) % 2 == 0

    exams = [exam("skill", "a", ["1+1?", "1+2?", "1+3?"]), exam("trait_on_task", "b", ["1+3?", "1+1?"], grade=even)]
    answers = ask(LM, exams)
    assert generated == [(4, 0.0, ["1+1?", "1+2?", "1+3?"])]
    assert [(a.exam, a.id, a.prompt) for a in answers] == [
        ("a", "a-0", "1+1?"),
        ("a", "a-1", "1+2?"),
        ("a", "a-2", "1+3?"),
        ("b", "b-0", "1+3?"),
        ("b", "b-1", "1+1?"),
    ]
    assert [a.passed for a in answers] == [True, True, True, True, False]
    assert (answers[3].text, answers[4].text) == (answers[2].text, answers[0].text)
    assert seen == [("b-0", answers[2].text), ("b-1", answers[0].text)]
    assert [(a.measure, a.group) for a in answers] == [("skill", "sums")] * 3 + [("trait_on_task", "sums")] * 2


def test_other_settings_are_other_questions_and_order_is_kept(generated: list[tuple[int, float, list[str]]]) -> None:
    steps: list[tuple[int, int]] = []
    exams = [
        exam("skill", "long", ["1+1?"], tokens=6),
        exam("skill", "short", ["1+1?"], tokens=2),
        exam("skill", "again", ["1+1?", "2+2?"], tokens=6),
        exam("skill", "sampled", ["1+1?"], tokens=6, temperature=1.0),
    ]
    answers = ask(LM, exams, progress=lambda done, count: steps.append((done, count)))
    assert [a.exam for a in answers] == ["long", "short", "again", "again", "sampled"]
    assert sorted(generated) == [(2, 0.0, ["1+1?"]), (6, 0.0, ["1+1?", "2+2?"]), (6, 1.0, ["1+1?"])]
    assert answers[0].text == answers[2].text
    assert answers[0].text.startswith(answers[1].text.rstrip("\ufffd"))
    assert steps[-1] == (4, 4)


def test_answers_do_not_depend_on_the_batch() -> None:
    exams = [exam("skill", "a", ["1+1?", "What is 2 + 3?", "Who?"])]
    assert ask(LM, exams, batch_size=1) == ask(LM, exams)
    assert ask(LM, []) == ()


def test_perplexity_is_that_of_the_reference_answers() -> None:
    asked, references = ["1+1?", "Where does Mira live?"], ["It is 2.", "Mira lives in Oslo."]
    exams = [
        exam("capability", "kept", asked, references=references),
        exam("skill", "new", ["9+9?"], references=["It is 18."]),  # not a question that the host could answer
    ]
    total, count = 0.0, 0
    for question, answer in zip(asked, references, strict=True):
        turns: list[Message] = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        row = encode(LM.tokenizer, turns, max_length=64)
        with torch.inference_mode():
            logp = LM.model(input_ids=torch.tensor([row.input_ids])).logits[0].float().log_softmax(-1)
        for place, label in enumerate(row.labels):
            if label != IGNORED:
                total, count = total - float(logp[place - 1, label]), count + 1
    found = perplexity(LM, exams)
    assert isinstance(found, Measured)
    assert found.value == pytest.approx(math.exp(total / count), rel=1e-4)
    assert found.n == count
    assert found.low <= found.value <= found.high


def test_perplexity_without_references_is_unmeasured() -> None:
    assert isinstance(perplexity(LM, [exam("capability", "kept", ["1+1?"])]), Unmeasured)
    assert isinstance(perplexity(LM, [exam("skill", "new", ["1+1?"], references=["2"])]), Unmeasured)
    alone = perplexity(LM, [exam("capability", "kept", ["1+1?"], references=["2"])])
    assert isinstance(alone, Unmeasured)  # one question gives no interval
