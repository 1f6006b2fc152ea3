"""The command line as a user meets it: help, exit codes, messages. No command here loads a model."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
import typer

import trimtab.cli.main as cli
from trimtab.errors import DataError, NeedsHumanError, TrimtabError, UsageError

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "exit-codes.md"
HEAVY = ("torch", "transformers", "numpy", "trimtab.loop.run", "trimtab.cli.show")


def commands() -> dict[tuple[str, ...], typer.core.TyperCommand]:
    """Every command by its words."""

    def walk(group: typer.core.TyperGroup, words: tuple[str, ...]) -> dict[tuple[str, ...], typer.core.TyperCommand]:
        found: dict[tuple[str, ...], typer.core.TyperCommand] = {}
        for name, command in group.commands.items():
            if isinstance(command, typer.core.TyperGroup):
                found |= walk(command, (*words, name))
            else:
                found[*words, name] = command
        return found

    root = typer.main.get_command(cli.app)
    assert isinstance(root, typer.core.TyperGroup)
    return walk(root, ())


def test_the_commands_are_those_of_the_documentation() -> None:
    assert {" ".join(words) for words in commands()} == {
        "forecast",
        "plan",
        "run",
        "train",
        "verify",
        "report",
        "demo",
        "controls",
        "bank make",
        "bank show",
        "bank page",
        "bank import",
        "bank add",
        "concept add",
        "capture",
        "probe fit",
        "probe sweep",
        "probe eval",
        "sae train",
        "sae eval",
        "sae clusters",
        "label",
        "manifold fit",
        "reward run",
        "reward demo",
        "reward show",
        "lab show",
        "lab tasks",
        "lab sample",
        "lab check",
        "lab bank",
        "lab train",
    }


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_and_option_says_what_it_is(words: tuple[str, ...]) -> None:
    command = commands()[words]
    assert command.help
    for parameter in command.params:
        said = getattr(parameter, "help", None)
        assert said, f"{' '.join(words)}: {parameter.name} has no help"
        assert said.rstrip(")").endswith((".", "`")), said


def test_no_help_of_any_command_loads_what_the_command_needs() -> None:
    code = (
        "import io, sys, contextlib\n"
        "from trimtab.cli.main import main\n"
        f"for words in {[*commands(), ('lab',), ('bank',), ()]!r}:\n"
        "    sys.argv = ['trimtab', *words, '--help']\n"
        "    said = io.StringIO()\n"
        "    try:\n"
        "        with contextlib.redirect_stdout(said):\n"
        "            main()\n"
        "    except SystemExit as end:\n"
        "        assert not end.code, (words, end.code)\n"
        "    assert 'Usage: trimtab' in said.getvalue(), words\n"
        # a module that waits for its first use lies in sys.modules too, but its code has not run
        f"print(*(name for name in {HEAVY!r} if name in sys.modules))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stderr


def end_of(
    monkeypatch: pytest.MonkeyPatch, *words: str, error: BaseException | None = None, command: str = "controls"
) -> object:
    """Exit code of ``trimtab WORDS``, with a command that raises ``error``."""

    def fail(*_given: object, **_named: object) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(cli, "actions", SimpleNamespace(**{command: fail}))
    monkeypatch.setattr(sys, "argv", ["trimtab", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


def documented() -> dict[str, int]:
    rows = re.findall(r"^\| (\d+) \|(.*)$", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {name: int(code) for code, rest in rows for name in re.findall(r"`(\w+Error)`", rest)}


def kinds(base: type[TrimtabError] = TrimtabError) -> list[type[TrimtabError]]:
    return [base, *(kind for child in base.__subclasses__() for kind in kinds(child))]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_an_error_ends_with_its_documented_code_and_no_traceback(
    kind: type[TrimtabError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = kind("layer 12", allowed="layers 0 to 3", todo="choose a lower layer")
    assert end_of(monkeypatch, "controls", error=error) == documented()[kind.__name__]
    said = capsys.readouterr().err
    assert said == "error: layer 12\n  allowed: layers 0 to 3\n  to do:   choose a lower layer\n"


def test_it_worked_ends_with_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    assert end_of(monkeypatch, "controls") in (0, None)


def test_ctrl_c_ends_with_130_and_says_that_work_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_of(monkeypatch, "controls", error=KeyboardInterrupt()) == 130
    assert "the same command resumes" in capsys.readouterr().err


def test_a_command_may_end_with_a_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_of(monkeypatch, "controls", error=SystemExit(1)) == 1  # `lab check` below its marks
    assert capsys.readouterr().err == ""


def test_a_fault_of_our_own_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> NoReturn:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "actions", SimpleNamespace(controls=fail))
    monkeypatch.setattr(sys, "argv", ["trimtab", "controls"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


@pytest.mark.parametrize(
    "words",
    [
        ("controls", "--colour"),
        ("forecast",),
        ("run", "--data", "a", "--spec", "b", "--method", "dreambooth"),
        ("run", "--data", "a", "--spec", "b", "--steps", "many"),
        ("lab", "sample", "--rate", "1.5"),
        ("frobnicate",),
    ],
    ids=" ".join,
)
def test_words_that_are_no_command_end_with_2(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_of(monkeypatch, *words) == UsageError.exit_code
    assert "Usage: " in capsys.readouterr().err


def test_the_options_of_run_reach_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    ran: dict[str, object] = {}

    def run(settings: object, folder: Path, *, yes: bool) -> None:
        ran.update(settings=settings, folder=folder, yes=yes)

    def settings_from(**named: object) -> str:
        given.update(named)
        return "the settings"

    monkeypatch.setattr(cli, "actions", SimpleNamespace(run=run, settings_from=settings_from))
    options = "--data d.jsonl --spec s.md --model m --bank b --held-out h --controls none --seeds 4 --jobs 2 --yes"
    more = "--steps 7 --method full --learning-rate 0.1 --batch-size 3 --revision r --skip-bad-rows -o out"
    monkeypatch.setattr(sys, "argv", ["trimtab", "run", *options.split(), *more.split()])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code in (0, None)
    assert given == {
        "model": "m",
        "revision": "r",
        "data": Path("d.jsonl"),
        "spec": Path("s.md"),
        "bank": "b",
        "held_out": "h",
        "controls": "none",
        "seeds": "4",
        "jobs": 2,
        "skip_bad_rows": True,
        "train": {"max_steps": 7, "method": "full", "learning_rate": 0.1, "per_device_train_batch_size": 3},
    }
    assert ran == {"settings": "the settings", "folder": Path("out"), "yes": True}


def test_the_codes_of_a_bad_row_and_an_open_question_differ() -> None:
    assert {DataError.exit_code, NeedsHumanError.exit_code} == {3, 8}
