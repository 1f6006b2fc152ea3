"""``trimtab reward``: signatures and help; ``cli/reward_actions.py`` holds what the commands do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.lazy import LazyModule

if TYPE_CHECKING:
    from trimtab.cli import reward_actions
else:
    reward_actions = LazyModule("trimtab.cli.reward_actions")

app = typer.Typer(
    help="Feature rewards: train a student on what the frozen host reads in its text.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Output = Annotated[Path, typer.Option("--output", "-o", help="Run folder; the same command resumes it.")]


@app.command("run")
def run(
    settings: Annotated[Path, typer.Argument(help="reward.yaml: model, questions, prices, training, harness.")],
    output: Output,
    jobs: Annotated[int | None, typer.Option(min=1, help="Students trained side by side; default: the file's.")] = None,
) -> None:
    """Fit a probe, train a student under it, judge before and after. Interrupted, the same command resumes."""
    reward_actions.run(settings, output, jobs=jobs)


@app.command("demo")
def demo(output: Output = Path("runs/demo-hallucination")) -> None:
    """The lab model learns to make less up: three seeds, ground truth before and after, an HTML page."""
    reward_actions.demo(output)


@app.command("show")
def show(folder: Annotated[Path, typer.Argument(help="Run folder of `trimtab reward run`.")]) -> None:
    """Print the table of a finished run."""
    reward_actions.show(folder)
