"""What ``trimtab manifold`` does."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trimtab.cli.capture_actions import parse_sites
from trimtab.cli.progress import bars
from trimtab.cli.show import number
from trimtab.data.select import Selection, select_rows
from trimtab.errors import UsageError
from trimtab.lens.base import save_lens
from trimtab.lens.manifold.fit import ManifoldSettings, Subject
from trimtab.lens.manifold.rows import ClassRows, read_classes
from trimtab.lens.manifold.sweep import fit_sites
from trimtab.lens.spans import Spans, read_spans
from trimtab.model.host import Host
from trimtab.records.figures import Measured
from trimtab.records.io import save
from trimtab.records.manifold import ManifoldReport, ManifoldSweep
from trimtab.records.site import Site
from trimtab.train.threads import fixed_threads, training_threads

console = Console(highlight=False)

SWEEP_FILE: Final = "sweep.json"


def fit(
    *,
    data: Path,
    out: Path,
    subject: tuple[str, str],
    model: tuple[str, str | None],
    sites: str,
    selection: Mapping[str, object],
    settings: Mapping[str, object],
    max_length: int,
) -> None:
    """``trimtab manifold fit``; ``subject``: concept and meaning; ``model``: name and revision."""
    wanted = manifold_settings(settings)
    rows = read_classes(data)
    with bars(console) as progress:
        progress("load the host", 0, 1)
        host = Host.load(model[0], revision=model[1])
        progress("load the host", 1, 1)
        places = parse_sites(sites, host.n_layers)
        selected = select_rows(
            host.tokenizer,
            rows.rows,
            Selection.model_validate(selection),
            max_length=max_length,
            spans=rows.spans if any(span is not None for span in rows.spans) else (),
            file=rows.source,
            lines=rows.lines,
        )
        with fixed_threads(training_threads(host.model)):
            spans = read_spans(
                host, selected, places, progress=lambda done, total: progress("read the rows", done, total)
            )
            inside, outside = _divided(rows, spans)
            fitted, sweep = fit_sites(
                host,
                inside,
                [name for name in rows.classes if name is not None],
                rows.values,
                subject=Subject(concept=subject[0], meaning=subject[1], provenance=_provenance(data)),
                background=outside,
                settings=wanted,
                progress=lambda done, total: progress("fit the sites", done, total),
            )
    save(sweep, out / SWEEP_FILE)
    save_lens(fitted[sweep.chosen].lens, out)
    show_sweep(sweep)
    console.print(f"wrote {escape(str(out))}: the lens at {sweep.chosen}", soft_wrap=True)


def manifold_settings(settings: Mapping[str, object]) -> ManifoldSettings:
    """Settings from the command line; ``periods`` is text with commas.

    Raises:
        UsageError: If one does not fit.
    """
    text = settings.get("periods")
    try:
        periods = None if text is None else tuple(float(part) for part in str(text).split(","))
        return ManifoldSettings.model_validate({**settings, "periods": periods})
    except ValidationError as error:
        first = error.errors()[0]
        given = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except ValueError:
        given = f"--periods {text!r}"
    raise UsageError(
        given, allowed="pooling last, mean or max; positive numbers with commas between", todo="correct the option"
    )


def show_sweep(sweep: ManifoldSweep) -> None:
    """Per site: best curve, what it explains and predicts, p and q, whether the order is right."""
    first = sweep.reports[0]
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title=f"{escape(first.concept)}: {len(first.classes)} classes, {sum(first.counts)} examples",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("site, best curve", min_width=18)
    for name in ("explained", "left-out", "p, q", "order", "error left out"):
        table.add_column(name, justify="left" if name == "order" else "right", no_wrap=True)
    for report, q_value in zip(sweep.reports, sweep.q_values, strict=True):
        table.add_row(*_row(report, q_value))
    console.print(table)
    best = next(report for report in sweep.reports if report.site == sweep.chosen)
    console.print(f"order at {sweep.chosen}: {escape(' '.join(best.geometry.held_out_order))}", soft_wrap=True)
    if min(sweep.q_values) > 0.05:
        console.print("[yellow]at no site is the order better than other orders of these classes (q > 0.05)[/yellow]")
    for site, reason in sweep.failures.items():
        console.print(f"{site}: not fitted: {escape(reason)}", soft_wrap=True)


def _row(report: ManifoldReport, q_value: float) -> tuple[str, ...]:
    geometry = report.geometry
    order = "–" if geometry.held_out_order_right is None else "right" if geometry.held_out_order_right else "differs"
    error = geometry.held_out_error
    shown = number(error) if isinstance(error, Measured) else "–"
    return (
        f"{report.site}\n[dim]{report.best.curve}[/dim]",
        f"{report.best.explained:.2f}",
        f"{report.best.predicted:.2f}",
        f"{report.p_search:.2g}\n[dim]q {q_value:.2g}[/dim]",
        order,
        f"{shown}\n[dim]chance {geometry.chance_error:.2f}[/dim]",
    )


def _divided(rows: ClassRows, spans: Mapping[Site, Spans]) -> tuple[dict[Site, Spans], dict[Site, Spans] | None]:
    """Rows of a class, and the background if there is any."""
    classed = [place for place, name in enumerate(rows.classes) if name is not None]
    rest = [place for place, name in enumerate(rows.classes) if name is None]
    inside = {site: found.take(classed) for site, found in spans.items()}
    return inside, {site: found.take(rest) for site, found in spans.items()} if rest else None


def _provenance(data: Path) -> dict[str, str]:
    found = {"data": data.name}
    return {**found, "sha256": hashlib.sha256(data.read_bytes()).hexdigest()} if data.is_file() else found
