"""Progress on the terminal: a bar for each stage that runs, a line for each that is done."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from trimtab.loop.prepare import Progress as Report


@contextmanager
def bars(console: Console) -> Generator[Report]:
    """Progress bars for any number of stages side by side; between stages the terminal is free for questions.

    Where no terminal reads along (a file, a pipe) there are only the lines.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_interactive)
    open_tasks: dict[str, TaskID] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in open_tasks:
            open_tasks[stage] = progress.add_task(escape(stage), total=total)
            progress.start()
        task = open_tasks[stage]
        progress.update(task, completed=done, total=total)
        if done >= total:
            seconds = next(item.elapsed for item in progress.tasks if item.id == task) or 0.0
            progress.remove_task(open_tasks.pop(stage))
            console.print(f"  done: {escape(stage)} [dim]({seconds:.1f} s)[/dim]")
            if not open_tasks:
                progress.stop()

    try:
        yield report
    finally:
        progress.stop()
