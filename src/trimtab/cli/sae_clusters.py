"""What ``trimtab sae clusters`` does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import accumulate
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trimtab.cli.progress import bars
from trimtab.cli.show import number
from trimtab.data.read import read_chat
from trimtab.data.select import Selection, select_rows
from trimtab.data.split import rows_hash
from trimtab.errors import StorageError
from trimtab.lens.bank_files import checked_name
from trimtab.lens.base import save_lens
from trimtab.lens.labels.windows import token_rows
from trimtab.lens.sae.cluster_lens import ClusterLens, cluster_lens
from trimtab.lens.sae.cluster_view import RowWords, view_cluster
from trimtab.lens.sae.clusters import Cluster, ClusterSettings, cluster_features
from trimtab.lens.sae.format import load_sae
from trimtab.lens.sae.model import SparseAutoencoder, match_host
from trimtab.lens.spans import Spans, read_spans
from trimtab.loop.prepare import Progress
from trimtab.model.host import Host
from trimtab.records.io import save
from trimtab.records.lens import Selected
from trimtab.records.rows import ChatRow, Fit, Rows
from trimtab.records.sae import ClusterReport, ClustersReport
from trimtab.records.site import Site
from trimtab.train.threads import fixed_threads, training_threads

console = Console(highlight=False)

CLUSTERS_FILE: Final = "clusters.json"
MAX_LENGTH: Final = 2048


def clusters(
    name: str,
    *,
    source: tuple[str, str | None, str | None, float | None],
    host: tuple[str, str | None, bool],
    data: Path,
    out: Path,
    how: tuple[str, int],
    settings: tuple[int, float, float, int],
) -> None:
    """``trimtab sae clusters``.

    ``source`` and ``host`` are as in ``sae_actions.evaluate``; ``how``: role and most tokens; ``settings``: smallest,
    edges, density and seed of ``ClusterSettings``.

    Raises:
        StorageError: If ``out`` holds clusters already.
    """
    smallest, edges, density, seed = settings
    wanted = ClusterSettings(smallest=smallest, edges=edges, density=density, seed=seed)
    set_name = checked_name(out.resolve().name)
    if (out / CLUSTERS_FILE).exists():
        raise StorageError(
            f"{out} holds clusters already",
            allowed="a new folder: lenses of earlier clusters may be in use",
            todo="choose another --out",
        )
    subfolder, revision, site, scale = source
    sae = load_sae(
        name, subfolder=subfolder, revision=revision, site=Site.parse(site) if site else None, input_scale=scale
    )
    rows = read_chat(data, split=Fit)
    with bars(console) as progress:
        progress("load the host", 0, 1)
        lm = Host.load(host[0], revision=host[1])
        progress("load the host", 1, 1)
        sae = match_host(sae, lm, trust_model_match=host[2])
        with fixed_threads(training_threads(lm.model)):
            selected, spans = _read(lm, sae, rows, how, progress)
            found = cluster_features(sae.firing(spans).numpy(), wanted)
            lenses = _lenses(sae, found, set_name, rows)
            views = _views(lm, rows, selected, spans, found, lenses, progress)
    report = ClustersReport(
        sae=name,
        card=sae.card,
        data=str(data),
        data_hash=rows_hash(rows),
        role=how[0],
        rows=len(spans),
        settings=asdict(wanted),
        clusters=tuple(views),
    )
    for view, lens in zip(views, lenses.values(), strict=True):
        save_lens(_described(lens, view), out / view.name)
    save(report, out / CLUSTERS_FILE)
    show_clusters(report)
    console.print(f"wrote {escape(str(out / CLUSTERS_FILE))}", soft_wrap=True)
    if views:
        example = escape(str(out / views[0].name))
        console.print(f"[dim]a cluster as a lens: trimtab bank add {example} --bank BANK[/dim]", soft_wrap=True)


def _read(
    lm: Host, sae: SparseAutoencoder, rows: Rows[ChatRow, Fit], how: tuple[str, int], progress: Progress
) -> tuple[tuple[Selected, ...], Spans]:
    """The first rows, up to so many tokens."""
    role, most = how
    selection = Selection.model_validate({"role": role, "empty": "skip"})
    selected = select_rows(lm.tokenizer, rows, selection, max_length=MAX_LENGTH, file=rows.source, lines=rows.lines)
    edges = accumulate(len(row.positions) for row in selected)
    kept = selected[: max(1, sum(edge <= most for edge in edges))]
    if len(kept) < len(selected):
        console.print(f"[yellow]the first {len(kept):,} of {len(selected):,} rows: more pass --tokens {most}[/yellow]")
    spans = read_spans(lm, kept, [sae.site], progress=lambda done, total: progress("read rows", done, total))
    return kept, spans[sae.site]


def _lenses(
    sae: SparseAutoencoder, found: tuple[Cluster, ...], set_name: str, rows: Rows[ChatRow, Fit]
) -> dict[str, ClusterLens]:
    """One lens per cluster by the name of its folder; numbers have the same width, so that folders sort."""
    width = max(2, len(str(len(found))))
    lenses: dict[str, ClusterLens] = {}
    for place, cluster in enumerate(found, 1):
        name = f"cluster-{place:0{width}}"
        made = cluster_lens(
            sae,
            cluster,
            concept=f"{name} of {set_name}",
            meaning=f"{len(cluster.features)} features that fire on the same rows",
        )
        read = {"clustered on": Path(rows.source).name, "clustered on hash": rows_hash(rows)}
        lenses[name] = replace(made, card=replace(made.card, provenance={**made.card.provenance, **read}))
    return lenses


def _views(
    lm: Host,
    rows: Rows[ChatRow, Fit],
    selected: tuple[Selected, ...],
    spans: Spans,
    found: tuple[Cluster, ...],
    lenses: Mapping[str, ClusterLens],
    progress: Progress,
) -> list[ClusterReport]:
    texts = token_rows(lm.tokenizer, selected)
    words = RowWords(texts)
    lines = [rows.lines[row.source] if rows.lines else row.source + 1 for row in selected]
    views: list[ClusterReport] = []
    for cluster, (name, lens) in zip(found, lenses.items(), strict=True):
        views.append(view_cluster(cluster, lens, name=name, spans=spans, rows=texts, words=words, lines=lines))
        progress("look at clusters", len(views), len(found))
    return views


def _described(lens: ClusterLens, view: ClusterReport) -> ClusterLens:
    """With the words of its rows in the one line that says what it reads."""
    if not view.words:
        return lens
    meaning = f"{lens.card.meaning}, those with {' · '.join(view.words)}"
    return replace(lens, card=replace(lens.card, meaning=meaning))


def show_clusters(report: ClustersReport) -> None:
    """One line per cluster, and under it a row on which most of it fires."""
    card = report.card
    count = f"{len(report.clusters)} cluster{'s' * (len(report.clusters) != 1)}"
    console.print(
        f"[bold]{escape(report.sae)}[/bold], {card.site} of {escape(card.origin.model)}: {count} of features "
        f"on {report.rows:,} rows of {escape(report.data)}"
        + (" [yellow](taken on trust)[/yellow]" if card.trusted else "")
    )
    if not report.clusters:
        console.print(
            "[yellow]No features fire together beyond chance in groups that large: read more rows, or set --smallest "
            "or --density lower.[/yellow]"
        )
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("cluster", no_wrap=True)
    table.add_column("features", justify="right")
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("words of its rows; a row, where most of it fires", overflow="fold")
    for view in report.clusters:
        words = " · ".join(view.words) or "none more frequent than elsewhere"
        shown = "".join(f"\n[dim]line {row.line}: {escape(row.text)}[/dim]" for row in view.rows[:1])
        table.add_row(
            view.name, str(len(view.features)), number(view.fires, digits=0, percent=True), escape(words) + shown
        )
    console.print(table)
    console.print(
        "[dim]rows: share on which at least half of the cluster fires, 95% interval\n"
        "words: more frequent there than in other rows, beyond chance (Fisher's exact)[/dim]"
    )
