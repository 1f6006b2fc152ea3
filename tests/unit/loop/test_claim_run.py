"""A small run of feature rewards on the lab, from probe to page: what lies in the folder, and that it resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trimtab.errors import DataError, StorageError, UsageError
from trimtab.loop.claim_demo import demo_settings
from trimtab.loop.claim_run import reward_run
from trimtab.loop.claim_task import claim_task
from trimtab.records.claim_run import ClaimRunSettings, read_claim_run
from trimtab.records.figures import Measured

STAGES = ["before", "monitor", "weights", "after"]
FIGURES = ["wrong_claims", "claims", "ungraded", "known_answered", "flagged_kept", "facts", "arithmetic"]


def small(**changes: object) -> ClaimRunSettings:
    demo = demo_settings()
    train = demo.train.model_copy(
        update={
            "max_steps": 2,
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "logging_steps": 1,
            "save_steps": 1,
            "steps_per_generation": 1,
            "validate_steps": 1,
            "max_completion_length": 24,
        }
    )
    sizes = {
        "probe_questions": 150,
        "train_questions": 12,
        "practice_questions": 4,
        "tune_questions": 60,
        "held_out_questions": 12,
    }
    return demo.model_copy(update={"seeds": (3,), "best_of": 2, "train": train, **sizes, **changes})


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run that is stopped in training, and again in the last stage, and ends in the third call."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    told: list[str] = []

    def until(word: str) -> None:
        def progress(stage: str, done: int, of: int) -> None:
            told.append(stage)
            if word in stage and done >= of - 1:
                raise Stop(stage)

        with pytest.raises(Stop):
            reward_run(small(), folder, progress=progress)

    until("seed 3: train")
    until("seed 3: after")
    reward_run(small(), folder, progress=lambda stage, _done, _of: told.append(stage))
    return folder, told


def test_a_stopped_run_goes_on_and_ends(run: tuple[Path, list[str]]) -> None:
    folder, told = run
    assert told.count("fit the probe") == 2  # started and ended, once in three calls
    assert (folder / "seed-3" / "policy" / "done.json").exists()
    assert {path.name for path in folder.iterdir()} >= {
        "reward.yaml",
        "manifest.json",
        "table.json",
        "summary.json",
        "report.html",
        "probe",
        "wanted.json",
    }


def test_the_table_has_one_object_per_stage_and_seed(run: tuple[Path, list[str]]) -> None:
    table = json.loads((run[0] / "table.json").read_text())
    assert [line["stage"] for line in table] == STAGES
    assert {line["seed"] for line in table} == {3}
    for line in table:
        for name in FIGURES:
            assert set(line[name]) >= {"value", "low", "high", "n"} or line[name]["value"] is None
        assert line["wrong_claims"]["low"] <= line["wrong_claims"]["value"] <= line["wrong_claims"]["high"]
        assert 0 <= line["facts"]["value"] <= 1


def test_every_reading_of_the_probe_is_on_its_card(run: tuple[Path, list[str]]) -> None:
    card = json.loads((run[0] / "probe" / "claim_probe.json").read_text())
    assert set(card["evidence"]) == {"probe", "confidence", "both", "network"}
    assert next(iter(card["evidence"])) == card["reading"]


def test_the_page_shows_answers_of_the_host_and_of_the_student(run: tuple[Path, list[str]]) -> None:
    page = (run[0] / "report.html").read_text()
    assert "before" in page
    assert "weights" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_finished_run_is_read_back_the_same(run: tuple[Path, list[str]]) -> None:
    before = (run[0] / "table.json").read_bytes()
    summary = reward_run(small(), run[0], progress=lambda *_: None)
    assert (run[0] / "table.json").read_bytes() == before
    assert isinstance(summary[0].wrong_claims, Measured)


def test_other_settings_are_refused_in_the_same_folder(run: tuple[Path, list[str]]) -> None:
    with pytest.raises(StorageError, match="best_of"):
        reward_run(small(best_of=1), run[0], progress=lambda *_: None)


def test_no_thing_is_asked_about_on_two_sides() -> None:
    task = claim_task(small())
    sides = [{question.about for question in side} for side in (task.probe, task.train, task.tune, task.held_out)]
    for place, side in enumerate(sides):
        for other in sides[:place]:
            assert not side & other


def test_another_model_needs_questions_and_documents() -> None:
    with pytest.raises(UsageError, match="documents"):
        claim_task(small(model="some/model"))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"documents": "texts"}, "documents 'texts' without questions"),
        ({"concept": "less flattery", "questions": "asked.jsonl"}, "concept 'less flattery' with questions"),
        ({"practice": "asked.jsonl"}, "practice 'asked.jsonl' without questions"),
        ({"concept": "more angry"}, "trait 'angry'\n  allowed: .*flattery"),
    ],
)
def test_what_does_not_go_together_is_named(changes: dict[str, object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        claim_task(small(**changes))


def own(folder: Path, practised: list[str]) -> ClaimRunSettings:
    asked = [f"thing {place}" for place in range(60)]
    for name, things in (("questions", asked), ("practice", practised)):
        lines = (json.dumps({"prompt": f"What is {thing}?", "about": thing}) for thing in things)
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    (folder / "texts").mkdir()
    (folder / "texts" / "one.txt").write_text("Thing 1 is green.")
    paths = {name: str(folder / f"{name}.jsonl") for name in ("questions", "practice")}
    return small(model="some/model", documents=str(folder / "texts"), practice_questions=2, **paths)


def test_practice_is_trained_on_and_judges_nobody(tmp_path: Path) -> None:
    task = claim_task(own(tmp_path, ["a unicorn", "a dragon", "a phoenix"]))
    assert [question.about for question in task.train][-2:] == ["a unicorn", "a dragon"]
    others = (*task.probe, *task.tune, *task.held_out)
    assert not {question.about for question in others} & {"a unicorn", "a dragon", "a phoenix"}
    assert {question.about for question in (*others, *task.train[:-2])} <= {f"thing {k}" for k in range(60)}


def test_practising_what_is_judged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="those of other parts: THING  ") as refused:
        claim_task(own(tmp_path, [f"THING  {place}" for place in range(60)]))
    assert "practice.jsonl" in str(refused.value)


def test_strangers_of_the_lab_are_practised() -> None:
    groups = [question.group for question in claim_task(small(practice_questions=6)).train]
    assert [group.endswith("unheard of") for group in groups] == [False] * 12 + [True] * 6


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"per_device_train_batch_size": 15}, "per_device_train_batch_size 15, num_generations 4"),
        ({"dense": False}, "explore_words with dense false"),
        ({"freeze_layers": 40}, "freeze_layers 40"),
    ],
)
def test_training_that_would_be_refused_is_refused_before_anything_is_done(
    tmp_path: Path, changes: dict[str, object], match: str
) -> None:
    train = small().train.model_copy(update=changes)
    with pytest.raises(UsageError, match=match):
        reward_run(small(train=train), tmp_path / "run", progress=lambda *_: None)
    assert not (tmp_path / "run").exists()


def test_the_page_says_how_many_questions_were_asked(run: tuple[Path, list[str]]) -> None:
    assert "12 held-out questions, best of 2" in (run[0] / "report.html").read_text()


def test_the_written_settings_are_read_back(run: tuple[Path, list[str]]) -> None:
    assert read_claim_run(run[0] / "reward.yaml") == small()


def test_a_wrong_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "reward.yaml"
    path.write_text("model: lab\nseed: 3\n")
    with pytest.raises(UsageError, match="seed"):
        read_claim_run(path)


def test_a_wrong_key_of_a_part_is_answered_with_the_keys_of_that_part(tmp_path: Path) -> None:
    path = tmp_path / "reward.yaml"
    path.write_text("model: lab\ntrain: {max_step: 3}\n")
    with pytest.raises(UsageError, match=r"train\.max_step: .*\n  allowed: keys of train: .*max_steps") as error:
        read_claim_run(path)
    assert "probe_questions" not in str(error.value)
    path.write_text("model: lab\ntrain: {max_step: 3}\nseed: 1\n")
    with pytest.raises(UsageError, match=r"probe_questions.*; keys of train: .*max_steps"):
        read_claim_run(path)


def test_a_tone_is_one_line_of_yaml(tmp_path: Path) -> None:
    path = tmp_path / "reward.yaml"
    path.write_text("model: lab\nconcept: less flattery\n")
    settings = read_claim_run(path)
    train = small().train
    sizes = {"probe_questions": 60, "train_questions": 8, "tune_questions": 40, "held_out_questions": 24}
    settings = settings.model_copy(update={"train": train, "seeds": (0,), **sizes})
    summary = reward_run(settings, tmp_path / "run", progress=lambda *_: None)
    assert [figures.stage for figures in summary] == ["before", "weights"]
    before = summary[0].wrong_claims
    assert isinstance(before, Measured)
    assert 0.2 < before.value < 0.7  # half of the questions ask for it, the others hardly ever show it
