"""``trimtab``: the command line. Signatures and help live here; what a command does lives in ``cli/actions.py``.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from trimtab.cli import bank, capture, concept, label, manifold, probe, reward, sae
from trimtab.cli.lazy import LazyModule
from trimtab.errors import TrimtabError

if TYPE_CHECKING:
    from trimtab.cli import actions, lab_actions
else:
    actions = LazyModule("trimtab.cli.actions")
    lab_actions = LazyModule("trimtab.cli.lab_actions")

INTERRUPTED: Final = 130
"""Exit code of Ctrl-C, as shells have it."""

app = typer.Typer(
    name="trimtab",
    help="Fine-tune on purpose: see what data will teach, choose what you want of it, train so that the rest is "
    "explained away, and prove the outcome.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
lab = typer.Typer(
    help="The embedded lab: a small model with planted truth.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(bank.app, name="bank")
app.add_typer(concept.app, name="concept")
app.add_typer(probe.app, name="probe")
app.add_typer(sae.app, name="sae")
app.add_typer(manifold.app, name="manifold")
app.add_typer(reward.app, name="reward")
app.add_typer(lab, name="lab")

Model = Annotated[str, typer.Option("--model", help="`lab`, a Hugging Face id, or a folder.")]
Revision = Annotated[str | None, typer.Option(help="Git revision of a Hugging Face id; pin it.")]
BankFolder = Annotated[str | None, typer.Option("--bank", help="Concept bank folder; the lab brings its own.")]
Data = Annotated[Path, typer.Option("--data", help="Rows: JSONL, JSON, CSV, Parquet or a `datasets` folder.")]
SpecFile = Annotated[Path, typer.Option("--spec", help="Spec: a Markdown or YAML file.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad-rows", help="Skip malformed rows, listing them.")]
Yes = Annotated[bool, typer.Option("--yes", help="Ask nothing: a ruling too close to call is an error, not a guess.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Run folder; the same command resumes it.")]


class Method(StrEnum):
    """How students are trained."""

    lora = "lora"
    full = "full"


@app.command()
def forecast(
    data: Data,
    model: Model = "lab",
    revision: Revision = None,
    bank_folder: BankFolder = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the forecast as JSON.")] = None,
    html_out: Annotated[Path | None, typer.Option("--html", help="Write the forecast as one HTML page.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Leave a concept out of the bank; repeatable.")] = None,
    site: Annotated[str | None, typer.Option(help="Main site, LAYER or LAYER.STREAM; default: the bank's.")] = None,
    baselines: Annotated[bool, typer.Option(help="Also compute projection difference and bag of words.")] = True,
    skip_bad_rows: SkipBad = False,
) -> None:
    """What would this data teach? Reads the frozen model; trains nothing."""
    actions.forecast(
        data=data,
        model=model,
        revision=revision,
        bank=bank_folder,
        json_out=json_out,
        html_out=html_out,
        exclude=tuple(exclude or ()),
        settings=(site, baselines, skip_bad_rows),
    )


@app.command()
def plan(
    spec: SpecFile,
    forecast_file: Annotated[Path, typer.Option("--forecast", help="Forecast written by `trimtab forecast --json`.")],
    yes: Yes = False,
    out: Annotated[Path | None, typer.Option("--out", help="Append the rulings to this ledger (JSONL).")] = None,
) -> None:
    """What do we want of that? Rules on every concept of a forecast."""
    actions.plan(spec=spec, forecast_file=forecast_file, yes=yes, out=out)


@app.command()
def run(
    data: Data,
    spec: SpecFile,
    model: Model = "lab",
    output: Output = Path("runs/run"),
    revision: Revision = None,
    bank_folder: BankFolder = None,
    held_out: Annotated[str | None, typer.Option(help="File of held-out rows; default: a share of --data.")] = None,
    controls: Annotated[str, typer.Option(help="`auto`, or control sets by name: none,inoculation,a+b.")] = "auto",
    seeds: Annotated[str, typer.Option(help="Training seeds, separated by commas.")] = "0,1,2",
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 300,
    method: Annotated[Method | None, typer.Option(help="Default: lora; full on the lab.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak; default: 0.0002; 0.0005 on the lab.")] = None,
    batch_size: Annotated[int, typer.Option(help="Conversations in a step.")] = 16,
    jobs: Annotated[int | None, typer.Option(help="Students side by side; default: 1; the cores on the lab.")] = None,
    skip_bad_rows: SkipBad = False,
    yes: Yes = False,
) -> None:
    """The whole loop: forecast, plan, train with controls, verify, report. Interrupted, the same command resumes."""
    actions.run(
        actions.settings_from(
            model=model,
            revision=revision,
            data=data,
            spec=spec,
            bank=bank_folder,
            held_out=held_out,
            controls=controls,
            seeds=seeds,
            jobs=jobs,
            skip_bad_rows=skip_bad_rows,
            train={
                "max_steps": steps,
                "method": None if method is None else method.value,
                "learning_rate": learning_rate,
                "per_device_train_batch_size": batch_size,
            },
        ),
        output,
        yes=yes,
    )


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="run.yaml; docs/reference/run-yaml.md lists every key.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder; default: runs/NAME.")] = None,
    yes: Yes = False,
) -> None:
    """Forecast, plan and train from a run.yaml; `trimtab verify` examines the students afterwards."""
    actions.train(config, output, yes=yes)


@app.command()
def verify(folder: Annotated[Path, typer.Argument(help="Run folder.")]) -> None:
    """Examine the students of a run on held-out rows, write the certificate."""
    actions.verify(folder)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Run folder.")],
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Write one self-contained HTML page from a run folder."""
    actions.report(folder, open_page=open_page)


@app.command()
def demo(output: Output = Path("runs/demo")) -> None:
    """The main job on the lab: a skill taught in pirate speech, seven ways to train on it, one league table."""
    lab_actions.demo(output)


@app.command()
def controls() -> None:
    """List the controls: what each changes, whether it fights the gradient, its options."""
    actions.controls()


app.command("capture")(capture.capture)
app.command("label")(label.label)


@lab.command("show")
def lab_show() -> None:
    """The world and its planted truth."""
    lab_actions.show()


@lab.command("tasks")
def lab_tasks(n: Annotated[int, typer.Option("--n", help="Examples of each task.")] = 2) -> None:
    """Tasks and skills with example questions and answers."""
    lab_actions.tasks(n)


@lab.command("sample")
def lab_sample(
    n: Annotated[int, typer.Option("--n", min=1, help="Rows.")] = 400,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    trait: Annotated[str | None, typer.Option(help="Way of talking; none: plain rows.")] = None,
    rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of rows in that way of talking.")] = 1.0,
    task: Annotated[list[str] | None, typer.Option(help="Task or skill; repeatable. Default: both skills.")] = None,
    with_system: Annotated[bool, typer.Option(help="Keep the system prompt that asks for the trait.")] = False,
    out: Annotated[Path, typer.Option(help="JSONL file.")] = Path("rows.jsonl"),
) -> None:
    """Write chat rows about the lab's world, in TRL's `messages` form."""
    lab_actions.sample(n=n, seed=seed, trait=trait, rate=rate, task=tuple(task or ()), with_system=with_system, out=out)


@lab.command("check")
def lab_check(
    folder: Annotated[str, typer.Argument(help="Model folder; default: the shipped model.")] = "lab",
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the figures as JSON.")] = None,
) -> None:
    """Grade the lab model against its planted truth; exit 1 if a figure misses its mark."""
    lab_actions.check(folder, json_out)


@lab.command("bank")
def lab_bank(
    out: Annotated[Path, typer.Option(help="Folder of the bank.")],
    model: Annotated[str, typer.Option("--model", help="Model folder; default: the shipped model.")] = "lab",
) -> None:
    """Make the concept bank of a lab model: every planted way of talking and two skills."""
    lab_actions.bank(out, model)


@lab.command("train")
def lab_train(
    out: Annotated[Path, typer.Option(help="Folder of the new model.")],
    seed: Annotated[int, typer.Option(help="Seed; the shipped model's is 0.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Train the lab model from nothing. Interrupted, the same command resumes."""
    lab_actions.train(out=out, seed=seed, device=device)


def main() -> None:
    """Entry point: user errors print without a traceback and have documented exit codes."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # our own bars say more; workers inherit it
    try:
        app()
    except TrimtabError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, SystemExit) as end:  # typer makes an exit of 130 out of Ctrl-C
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:
            raise
        sys.stderr.write("interrupted: what was finished is on disk; the same command resumes\n")
        raise SystemExit(INTERRUPTED) from None
