"""What ``trimtab label`` does."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from trimtab.cli.progress import bars
from trimtab.cli.show import number, value
from trimtab.data.read import read_chat
from trimtab.data.select import Selection, select_rows
from trimtab.errors import UsageError
from trimtab.lens.bank import Bank
from trimtab.lens.labels.cheap import WordCounts
from trimtab.lens.labels.embedders import CachedEmbedder, HashedEmbedder
from trimtab.lens.labels.examples import ExampleSettings
from trimtab.lens.labels.folder import LINES_FILE, LabelFolder, read_labels, rows_hash
from trimtab.lens.labels.label import Bench, label_features, make_bench
from trimtab.lens.labels.sources import CheapLabels, TextLabels, read_texts
from trimtab.lens.labels.traces import FeatureReader, LensFeatures, SaeFeatures, TraceTable, read_traces, trace_table
from trimtab.lens.labels.windows import store_rows
from trimtab.lens.sae.format import load_sae
from trimtab.lens.sae.model import match_host
from trimtab.lens.store.read import Store
from trimtab.llm.endpoint import connect
from trimtab.llm.settings import configured
from trimtab.loop.prepare import Progress
from trimtab.model.host import Host
from trimtab.records.labels import FeatureLabel, LabelRun
from trimtab.train.threads import fixed_threads, training_threads

console = Console(highlight=False)

TOKENS_AT_ONCE = 8192
SHOWN = 40
"""Rows of the table; the folder holds all of them."""

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True, kw_only=True)
class _Features:
    """What is to be labelled.

    Attributes:
        reader: Reads them.
        name: What they are, with a hash.
        asked: Those that were named; empty: all that fire.
    """

    reader: FeatureReader
    name: str
    asked: tuple[str, ...]


def label(
    *,
    what: tuple[str | None, str | None],
    where: tuple[Path | None, Path | None],
    model: tuple[str, str | None],
    chosen: tuple[str | None, int | None],
    verbalised: Path | None,
    hashed_tiers: bool,
    trusted: bool,
    limits: tuple[int, int, bool],
    out: Path,
) -> None:
    """``trimtab label``.

    ``what`` is autoencoder or bank; ``where`` data or store; ``model`` name and revision; ``chosen`` features and how
    many; ``limits`` the longest row, the seed and whether to skip malformed rows.

    Raises:
        UsageError: If not exactly one of the two is given in ``what`` and in ``where``, or a feature does not exist.
    """
    _one_of(what, "--sae", "--bank")
    _one_of(where, "--data", "--store")
    seed, embed = limits[1], CachedEmbedder()
    settings, texts = configured(), None if verbalised is None else read_texts(verbalised)
    with bars(console) as progress:
        progress("load the host", 0, 1)
        host = Host.load(model[0], revision=model[1])
        progress("load the host", 1, 1)
        features = _features(host, what, chosen[0], trusted=trusted)
        with fixed_threads(training_threads(host.model)):
            table = _traces(host, features.reader, where, limits, progress)
            progress("draw random windows", 0, 1)
            bench = make_bench(
                table.rows,
                cheap=lambda pool: CheapLabels(WordCounts(pool.windows), host),
                client=None if settings is None else connect(settings),
                verbaliser=None if texts is None else TextLabels(texts, kind="verbalisation", made_by=str(verbalised)),
                examples=ExampleSettings(seed=seed),
                embed=embed,
                tier_embed=CachedEmbedder(HashedEmbedder(), name=HashedEmbedder.name) if hashed_tiers else None,
            )
            progress("draw random windows", 1, 1)
            folder = LabelFolder(out, _run(host, features, table, str(where[0] or where[1]), bench))
            names = features.asked or _firing(table, chosen[1], seed)
            label_features(
                (table[name] for name in names),
                bench,
                directions=features.reader.directions,
                done={item.feature for item in folder.done},
                keep=folder.keep,
                progress=lambda done, total: progress("label features", done, total),
                total=len(names),
            )
    show_labels([item for item in read_labels(out)[1] if item.feature in set(names)])
    console.print(f"wrote {escape(str(out / LINES_FILE))}", soft_wrap=True)


def _one_of(given: Sequence[object], first: str, second: str) -> None:
    if sum(item is not None for item in given) != 1:
        raise UsageError(
            f"{'both' if any(item is not None for item in given) else 'neither'} of {first} and {second}",
            allowed="exactly one of the two",
            todo=f"see `trimtab label --help`: give {first} or {second}",
        )


def _features(host: Host, what: tuple[str | None, str | None], asked: str | None, *, trusted: bool) -> _Features:
    if what[0] is not None:
        sae = match_host(load_sae(what[0]), host, trust_model_match=trusted)
        reader = SaeFeatures(sae, None if asked is None else numbers(asked))
        name = f"autoencoder {what[0]} {_hash([sae.encoder, sae.encoder_bias, sae.decoder])}"
        return _Features(reader=reader, name=name, asked=() if asked is None else reader.names)
    bank = Bank.load(str(what[1]))
    bank.check_host(host.content_hash)
    names = [concept.name for concept in bank.everything] if asked is None else asked.split(",")
    lenses = [lens for name in names if (lens := bank.lens(name.strip())) is not None]
    known = {c.name: c.directions[bank.card.site] for c in bank.everything if bank.card.site in c.directions}
    name = f"bank {what[1]} {_hash([tensor for lens in lenses for tensor in lens.tensors().values()])}"
    return _Features(reader=LensFeatures(lenses, known), name=name, asked=tuple(lens.card.concept for lens in lenses))


def numbers(text: str) -> list[int]:
    """``3,7,100-120`` as numbers.

    Raises:
        UsageError: If a part is neither a number nor a range.
    """
    found: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise UsageError(
                f"features {text!r}: {part.strip()!r}",
                allowed="numbers and ranges, by commas, such as 3,7,100-120",
                todo="correct that part",
            )
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return list(dict.fromkeys(found))


def _hash(tensors: Sequence[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _traces(
    host: Host,
    reader: FeatureReader,
    where: tuple[Path | None, Path | None],
    limits: tuple[int, int, bool],
    progress: Progress,
) -> TraceTable:
    if where[1] is not None:
        store = Store.open(where[1], host)
        rows = store_rows(host.tokenizer, store.provenance)
        return trace_table(rows, store.iter_tokens(reader.site, TOKENS_AT_ONCE), reader)
    chat = read_chat(str(where[0]), skip_bad=limits[2])
    selected = select_rows(
        host.tokenizer, chat, Selection(role="any"), max_length=limits[0], file=chat.source, lines=chat.lines
    )
    return read_traces(host, selected, reader, progress=lambda done, total: progress("read rows", done, total))


def _firing(table: TraceTable, most: int | None, seed: int) -> tuple[str, ...]:
    """The features that fire at all, in order; at most so many, chosen at random."""
    names = [name for name, count in zip(table.names, table.counts, strict=True) if count]
    kept = set(names if most is None else random.Random(seed).sample(names, min(most, len(names))))
    return tuple(name for name in names if name in kept)


def _run(host: Host, features: _Features, table: TraceTable, data: str, bench: Bench) -> LabelRun:
    return LabelRun(
        features=features.name,
        model=host.name,
        model_hash=host.content_hash,
        site=features.reader.site,
        data=data,
        data_hash=rows_hash(table.rows),
        examples=bench.pool.settings.model_dump(),
        tiers=bench.background.settings.model_dump(),
        embedder=f"{bench.embed.name}; tiers by {bench.tier_embed.name}",
        judge="; cheap labels: ".join(judge.name for judge in (bench.judge, bench.cheap_judge) if judge is not None),
        version=version("trimtab"),
    )


def show_labels(labels: Sequence[FeatureLabel]) -> None:
    """A table of labels with their scores, and how many features went to each tier."""
    table = Table(title="Labels", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("feature", "tier", "label", "detection", "fuzzing", "embedding"):
        table.add_column(name, justify="right" if name in ("detection", "fuzzing", "embedding") else "left")
    for item in labels[:SHOWN]:
        said = f"[dim]waits for a {item.waits_for}[/dim]" if item.label is None else escape(item.label.text)
        scores = [score.pooled for score in item.scores]
        shown = [number(scores[0]), *map(value, scores[1:])] if scores else ["", "", ""]
        table.add_row(escape(item.feature), item.tiers.tier, said, *shown)
    console.print(table)
    if len(labels) > SHOWN:
        console.print(f"[dim]… and {len(labels) - SHOWN} more[/dim]")
    tiers = Counter(item.tiers.tier for item in labels)
    waiting = Counter(item.waits_for for item in labels if item.waits_for != "nothing")
    told = [f"{count} {tier}" for tier, count in tiers.most_common()]
    told += [f"{count} wait{'s' * (count == 1)} for a {who}" for who, count in waiting.most_common()]
    judges = sorted({score.judge for item in labels for score in item.scores if score.scorer != "embedding"})
    count = f"{len(labels)} feature{'s' * (len(labels) != 1)}"
    console.print(f"{count}: {', '.join(told)}. Judged by {escape('; '.join(judges)) or 'nobody'}.")
