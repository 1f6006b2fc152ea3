from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from trimtab.errors import UsageError
from trimtab.records.config import (
    ControlSettings,
    RunSettings,
    TrainSettings,
    parse_settings,
    read_settings,
    write_settings,
)

# Under the run-time type checker, settings look at a random item of their tuples while hypothesis builds them.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module:hypothesis.errors.HypothesisWarning")

LEAST = {"model": "lab", "data": "rows.jsonl", "spec": "spec.md"}
text = st.text(st.characters(codec="utf-8"), max_size=12)
option = (
    st.booleans() | st.integers(-1000, 1000) | st.floats(allow_nan=False, allow_infinity=False) | text | st.lists(text)
)
controls = st.builds(
    ControlSettings, name=text, label=st.none() | text, options=st.dictionaries(text, option, max_size=3)
).filter(lambda control: control.title != "host")
runs = st.builds(
    RunSettings,
    model=text,
    revision=st.none() | text,
    data=text,
    spec=text,
    bank=st.none() | text,
    held_out=st.none() | text,
    held_out_share=st.floats(0.01, 0.99),
    controls=st.just("auto") | st.lists(controls, max_size=3, unique_by=lambda control: control.title).map(tuple),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True).map(tuple),
    train=st.builds(
        TrainSettings, max_steps=st.integers(1, 9999), learning_rate=st.floats(1e-6, 1), bf16=st.booleans()
    ),
    jobs=st.integers(1, 8),
    skip_bad_rows=st.booleans(),
)


@settings(deadline=None, max_examples=40)
@given(run=runs)
def test_run_yaml_reads_back_as_written(run: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("run") / "run.yaml"
    write_settings(run, path)
    assert read_settings(path) == run


def test_the_least_that_is_needed() -> None:
    run = parse_settings(LEAST, source="here")
    assert (run.controls, run.seeds, run.train.method) == ("auto", (0, 1, 2), "lora")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"modle": "x"}, "modle: Extra inputs are not permitted"),
        ({"train": {"max_step": 3}}, "train.max_step: Extra inputs are not permitted"),
        ({"controls": [{"name": "a", "strength": 1}]}, "strength: Extra inputs are not permitted"),
        ({"train": {"max_steps": 0}}, "train.max_steps: Input should be greater than 0"),
        ({"train": {"method": "qlora"}}, "train.method: Input should be 'full' or 'lora'"),
        ({"seeds": []}, "seeds: Tuple should have at least 1 item"),
        ({"held_out_share": 1}, "held_out_share: Input should be less than 1"),
        ({"controls": [{"name": "a"}, {"name": "a"}]}, "controls: Value error, a: give each control set a label"),
        ({"controls": [{"name": "a", "label": "host"}]}, "`host` is taken"),
        ({"model": None}, "model: Input should be a valid string"),
    ],
)
def test_wrong_keys_and_values_are_refused_by_name(change: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_settings(LEAST | change, source="run.yaml")
    assert caught.value.given.startswith("run.yaml: ")
    assert named in caught.value.given
    assert "held_out_share" in caught.value.allowed
    assert caught.value.exit_code == 2


def test_every_wrong_key_is_named() -> None:
    with pytest.raises(UsageError, match=r"(?s)data: Field required.*spec: Field required.*one: Extra.*two: Extra"):
        parse_settings({"model": "lab", "one": 1, "two": 2}, source="run.yaml")


@pytest.mark.parametrize("content", ["", "just text", "[1, 2]"])
def test_yaml_of_another_shape(content: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match="top level"):
        read_settings(path)


def test_a_file_that_is_not_yaml_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    with pytest.raises(UsageError, match="cannot read"):
        read_settings(path)
    path.write_text("a: [1")
    with pytest.raises(UsageError, match="cannot read"):
        read_settings(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot read"):
        read_settings(path)


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(UsageError, match="could not determine a constructor"):
        read_settings(path)


def test_settings_are_frozen() -> None:
    run = parse_settings(LEAST, source="here")
    with pytest.raises(ValidationError, match="frozen"):
        run.model = "other"  # type: ignore[misc]


def test_every_field_says_what_it_is() -> None:
    for model in (RunSettings, TrainSettings, ControlSettings):
        assert all(field.description for field in model.model_fields.values())


def test_written_yaml_is_plain(tmp_path: Path) -> None:
    write_settings(parse_settings(LEAST, source="here"), tmp_path / "run.yaml")
    loaded = yaml.safe_load((tmp_path / "run.yaml").read_text())
    assert list(loaded) == list(RunSettings.model_fields)
