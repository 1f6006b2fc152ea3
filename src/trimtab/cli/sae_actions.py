"""What the ``trimtab sae`` commands do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from pydantic import ValidationError
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trimtab.cli.progress import bars
from trimtab.cli.show import number
from trimtab.data.labelled import read_labelled
from trimtab.data.read import read_chat
from trimtab.data.select import Selection, select_rows
from trimtab.errors import UsageError
from trimtab.lens.probes.read import read_sides
from trimtab.lens.probes.splits import divide
from trimtab.lens.sae.format import load_sae
from trimtab.lens.sae.known import read_concept
from trimtab.lens.sae.metrics import fidelity
from trimtab.lens.sae.model import SparseAutoencoder, match_host, match_model
from trimtab.lens.sae.source import StoreTokens
from trimtab.lens.sae.splice import splice
from trimtab.lens.sae.train import train_sae
from trimtab.lens.spans import Spans, read_spans
from trimtab.lens.store.layout import rows_hashes
from trimtab.lens.store.read import Store
from trimtab.model.host import Host
from trimtab.records.figures import Figure, Unmeasured
from trimtab.records.io import save
from trimtab.records.lens import Selected
from trimtab.records.rows import HeldOut
from trimtab.records.sae import SaeConcept, SaeFidelity, SaeReport, SaeSettings, SaeSplice
from trimtab.records.site import Site
from trimtab.train.threads import fixed_threads, training_threads

console = Console(highlight=False)

MAX_LENGTH = 2048
SAME_ROWS = "These are the rows that it was trained on: take others to judge it."

Stage = Callable[[str, int, int], None]


def train(*, store: Path, site: str, out: Path, settings: Mapping[str, object], device: str | None) -> None:
    """``trimtab sae train``."""
    try:
        wanted = SaeSettings.model_validate(settings)
    except ValidationError as error:
        raise UsageError(
            "; ".join(fault["msg"] for fault in error.errors()),
            allowed="k no larger than the number of features",
            todo="correct the numbers",
        ) from error
    source = StoreTokens(store=Store.open(store), site=Site.parse(site))
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with bars(console) as progress:
        sae = train_sae(source, wanted, out, device=where, progress=_stage(progress, "train the autoencoder"))
    trained = sae.card.training
    if trained is not None:
        console.print(
            f"{wanted.architecture}, {sae.n_features} features at {sae.site} of {escape(sae.card.origin.model)}: "
            f"{trained.tokens:,} tokens in {trained.steps} steps, FVU {trained.fvu:.3f} in the last one"
        )
    console.print(f"wrote {escape(str(out))}", soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class _Material:
    """What is rebuilt, and from where."""

    spans: Spans
    rows: tuple[Selected, ...]
    remark: str


def evaluate(
    name: str,
    *,
    source: tuple[str, str | None, str | None, float | None],
    host: tuple[str, str | None, bool],
    store: Path | None,
    data: Path | None,
    concepts: tuple[str, ...],
    how: tuple[str, int, int],
    json_out: Path | None,
) -> None:
    """``trimtab sae eval``.

    ``source``: subfolder, revision, site and input scale of the autoencoder; ``host``: name, revision and whether the
    match is taken on trust; ``how``: role, most tokens, seed.
    """
    if store is not None and data is not None:
        raise UsageError("--store and --data", allowed="one of them: what is to be rebuilt", todo="leave one out")
    subfolder, revision, site, scale = source
    sae = load_sae(
        name, subfolder=subfolder, revision=revision, site=Site.parse(site) if site else None, input_scale=scale
    )
    files = [_named_file(text) for text in concepts]
    role, most, seed = how
    with bars(console) as progress:
        lm = None
        if data is not None or files:
            progress("load the host", 0, 1)
            lm = Host.load(host[0], revision=host[1])
            progress("load the host", 1, 1)
            sae = match_host(sae, lm, trust_model_match=host[2])
        with fixed_threads(1 if lm is None else training_threads(lm.model)):
            sae, material = _material(sae, lm, store, data, (role, most, host[2]), progress)
            report = SaeReport(
                sae=name,
                card=sae.card,
                d_model=sae.d_model,
                features=sae.n_features,
                fidelity=fidelity(sae, material.spans, seed=seed, progress=_stage(progress, "rebuild tokens")),
                splice=None
                if lm is None or not material.rows
                else splice(lm, sae, material.rows, seed=seed, progress=_stage(progress, "splice into the model")),
                concepts=() if lm is None else _read_concepts(sae, lm, files, role, seed, progress),
            )
    show_report(report, material.remark)
    if json_out is not None:
        save(report, json_out)
        console.print(f"wrote {escape(str(json_out))}", soft_wrap=True)


def _stage(progress: Stage, name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)


def _named_file(text: str) -> tuple[str, Path]:
    name, sign, path = text.partition("=")
    if not (sign and name and path):
        raise UsageError(f"--concept {text!r}", allowed="NAME=FILE", todo="write for example pirate=pirate.jsonl")
    return name, Path(path)


def _material(
    sae: SparseAutoencoder,
    lm: Host | None,
    store: Path | None,
    data: Path | None,
    how: tuple[str, int, bool],
    progress: Stage,
) -> tuple[SparseAutoencoder, _Material]:
    role, most, trust = how
    if data is not None and lm is not None:
        return sae, _from_rows(sae, lm, data, role, most, progress)
    if store is not None:
        return _from_store(sae, Store.open(store, lm), most, trust=trust)
    raise UsageError(
        "neither --store nor --data",
        allowed="one of them: what is to be rebuilt",
        todo="pass --data with held-out rows, or --store with a capture of them",
    )


def _from_store(sae: SparseAutoencoder, store: Store, most: int, *, trust: bool) -> tuple[SparseAutoencoder, _Material]:
    origin = StoreTokens(store=store, site=sae.site).origin
    sae = match_model(sae, origin, trust_model_match=trust)
    remark = ""
    if origin.data_hash == sae.card.origin.data_hash and origin.selection_hash == sae.card.origin.selection_hash:
        remark = SAME_ROWS
    spans = store.spans(sae.site)
    if len(spans.values) > most:
        step = -(-len(spans.values) // most)
        spans = store.spans(sae.site, range(0, len(store), step))
    return sae, _Material(spans=spans, rows=(), remark=remark)


def _from_rows(sae: SparseAutoencoder, lm: Host, data: Path, role: str, most: int, progress: Stage) -> _Material:
    rows = read_chat(data, split=HeldOut)
    selection = Selection.model_validate({"role": role, "empty": "skip"})
    selected = select_rows(lm.tokenizer, rows, selection, max_length=MAX_LENGTH, file=rows.source, lines=rows.lines)
    edges = list(accumulate(len(row.positions) for row in selected))
    kept = selected[: max(1, sum(edge <= most for edge in edges))]
    spans = read_spans(lm, kept, [sae.site], progress=_stage(progress, "read rows"))[sae.site]
    trained_on = rows_hashes(selected)[0] == sae.card.origin.data_hash
    return _Material(spans=spans, rows=kept, remark=SAME_ROWS if trained_on else "")


def _read_concepts(
    sae: SparseAutoencoder, lm: Host, files: Sequence[tuple[str, Path]], role: str, seed: int, progress: Stage
) -> tuple[SaeConcept, ...]:
    found: list[SaeConcept] = []
    selection = Selection.model_validate({"role": role})
    for name, path in files:
        divided = divide(read_labelled(path), seed=seed)
        sides = read_sides(lm, divided, selection, [sae.site], progress=_stage(progress, f"read {name}"))
        fit, tune, held_out = sides.fit.at(sae.site), sides.tune.at(sae.site), sides.held_out.at(sae.site)
        found.append(read_concept(sae, name, fit, tune, held_out, seed=seed))
    return tuple(found)


def show_report(report: SaeReport, remark: str) -> None:
    """The figures as tables."""
    card = report.card
    trained = "" if card.training is None else f", trained as {card.training.settings.architecture}"
    console.print(
        f"[bold]{escape(report.sae)}[/bold]: {card.activation}{trained}, {report.features} features, width "
        f"{report.d_model}, {card.site} of {escape(card.origin.model)}"
        + (" [yellow](taken on trust)[/yellow]" if card.trusted else "")
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("figure", "value", "95% interval", "n"):
        table.add_column(name, justify="left" if name == "figure" else "right")
    lines = _lines(report.fidelity, report.splice)
    for name, figure in lines:
        low, high, n = (
            ("", "", "") if figure.value is None else (f"{figure.low:.4g}", f"{figure.high:.4g}", f"{figure.n}")
        )
        shown = "[dim]unmeasured[/dim]" if figure.value is None else f"{figure.value:.4g}"
        table.add_row(name, shown, f"{low}–{high}" if low else "", n)
    console.print(table)
    console.print(f"[dim]{report.fidelity.tokens:,} tokens; dead: fires on none of them, n counts features[/dim]")
    for name, figure in lines:
        if isinstance(figure, Unmeasured):
            console.print(f"[dim]{name.strip()}: unmeasured: {escape(figure.reason)}[/dim]")
    if remark:
        console.print(f"[yellow]{escape(remark)}[/yellow]")
    if report.concepts:
        _show_concepts(report.concepts)


def _lines(found: SaeFidelity, spliced: SaeSplice | None) -> list[tuple[str, Figure]]:
    lines = [
        ("FVU: variance left unexplained", found.fvu),
        ("L0: active features on a token", found.l0),
        ("cosine with the reconstruction", found.cosine),
        ("share of dead features", found.dead),
    ]
    if spliced is not None:
        lines += [
            ("loss of the model, nats", spliced.clean),
            ("  with reconstructions", spliced.spliced),
            ("  with the mean activation", spliced.mean),
            ("  with zeros", spliced.zero),
            ("loss recovered from the mean", spliced.recovered_from_mean),
            ("loss recovered from zeros", spliced.recovered_from_zero),
        ]
    return lines


def _show_concepts(concepts: Sequence[SaeConcept]) -> None:
    counts = sorted({k for concept in concepts for k in concept.sparse})
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title="Concepts known in advance: AUROC on held-out rows",
        title_justify="left",
    )
    table.add_column("concept")
    for k in counts:
        table.add_column(f"{k} feature{'s' if k > 1 else ''}", justify="right")
    table.add_column("probe", justify="right")
    for concept in concepts:
        table.add_row(
            escape(concept.concept),
            *(number(concept.sparse[k].auroc) if k in concept.sparse else "" for k in counts),
            number(concept.dense.auroc),
        )
    console.print(table)
    for concept in concepts:
        features = ", ".join(str(feature) for feature in concept.features[:5])
        console.print(f"[dim]{escape(concept.concept)}: features {features}; probe: on the raw activations[/dim]")
