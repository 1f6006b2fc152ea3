"""What ``trimtab reward`` does: parse, call, print."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter
from rich import box
from rich.console import Console
from rich.table import Table

from trimtab.cli.progress import bars
from trimtab.errors import StorageError
from trimtab.loop.claim_demo import demo_settings
from trimtab.loop.claim_run import reward_run
from trimtab.records.claim_run import ClaimRunSettings, read_claim_run
from trimtab.records.figures import Figure, Measured
from trimtab.records.hallucination import StageFigures

console = Console(highlight=False)

_SUMMARY = TypeAdapter(tuple[StageFigures, ...])
_MEANS = {
    "before": "the host",
    "monitor": "the host under the harness",
    "weights": "the student",
    "after": "the student, best of N under the harness",
}


def run(path: Path, output: Path, *, jobs: int | None) -> None:
    """``trimtab reward run``."""
    settings = read_claim_run(path)
    _run(settings if jobs is None else settings.model_copy(update={"jobs": jobs}), output)


def demo(output: Path) -> None:
    """``trimtab reward demo``."""
    _run(demo_settings(jobs=min(2, os.cpu_count() or 1)), output)


def show(folder: Path) -> None:
    """``trimtab reward show``."""
    path = folder / "summary.json"
    try:
        summary = _SUMMARY.validate_json(path.read_bytes())
    except OSError as error:
        raise StorageError(
            f"{folder} holds no finished run of feature rewards: {path.name} is missing",
            allowed="a folder that `trimtab reward run` or `trimtab reward demo` has finished",
            todo="run the command that made it again: it resumes",
        ) from error
    show_stages(summary)


def _run(settings: ClaimRunSettings, output: Path) -> None:
    with bars(console) as report:
        summary = reward_run(settings, output, progress=report)
    show_stages(summary)
    console.print(f"page: {output / 'report.html'}", soft_wrap=True)


def show_stages(summary: Sequence[StageFigures]) -> None:
    """The table before and after, figures down and stages across."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("held out")
    for figures in summary:
        table.add_column(figures.stage, justify="right")
    lines: dict[str, str] = {
        "wrong claims": "wrong_claims",
        "claims per answer": "claims",
        "hedged claims": "hedged",
        "not graded": "ungraded",
        "known answered": "known_answered",
        "flagged right kept": "flagged_kept",
        "facts": "facts",
        "arithmetic": "arithmetic",
    }
    for title, name in lines.items():
        table.add_row(title, *(_cell(getattr(figures, name), share=name != "claims") for figures in summary))
    console.print(table)
    for figures in summary:
        console.print(f"{figures.stage}: {_MEANS.get(figures.stage, figures.stage)}")
    before = summary[0].wrong_claims
    for figures in summary[1:]:
        if isinstance(before, Measured) and isinstance(figures.wrong_claims, Measured) and before.value > 0:
            fewer = 1 - figures.wrong_claims.value / before.value
            console.print(f"wrong claims, {figures.stage} against before: {round(-fewer, 2) + 0:+.0%}")


def _cell(figure: Figure, *, share: bool) -> str:
    if not isinstance(figure, Measured):
        return "–"
    if share:
        return f"{figure.value:.0%} ({figure.low * 100:.0f}–{figure.high * 100:.0f})"
    return f"{figure.value:.2f} ({figure.low:.2f}–{figure.high:.2f})"
