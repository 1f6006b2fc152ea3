"""What ``trimtab capture`` does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from trimtab.cli.progress import bars
from trimtab.data.read import read_chat
from trimtab.data.select import Selection, select_rows
from trimtab.lens.store.layout import CARD_FILE
from trimtab.lens.store.write import CaptureSettings, Part, capture_store
from trimtab.model.host import Host
from trimtab.records.io import load
from trimtab.records.site import Site
from trimtab.records.store import Captured, StoreCard
from trimtab.train.threads import fixed_threads, training_threads

console = Console(highlight=False)


def capture(
    *,
    data: Path,
    out: Path,
    model: tuple[str, str | None],
    sites: str,
    selection: Mapping[str, object],
    settings: Mapping[str, object],
    skip_bad: bool,
) -> None:
    """``trimtab capture``; ``model``: name and revision."""
    part = Part.from_environment()
    wanted = CaptureSettings.model_validate(
        {**settings, "data": str(data), "selection": Selection.model_validate(selection)}
    )
    rows = read_chat(data, skip_bad=skip_bad)
    with bars(Console(quiet=True) if part.rank else console) as progress:
        progress("load the host", 0, 1)
        host = Host.load(model[0], revision=model[1], device=_device())
        progress("load the host", 1, 1)
        places = parse_sites(sites, host.n_layers)
        selected = select_rows(
            host.tokenizer,
            rows,
            wanted.selection,
            max_length=wanted.max_length,
            file=rows.source,
            lines=rows.lines,
        )
        with fixed_threads(training_threads(host.model)):
            done = capture_store(
                host,
                selected,
                places,
                out,
                wanted,
                lines=rows.lines,
                part=part,
                progress=lambda read, total: progress("capture tokens", read, total),
            )
    show_captured(done, load(StoreCard, out / CARD_FILE), part, out)


def parse_sites(text: str, depth: int) -> tuple[Site, ...]:
    """``all`` or a list of sites, separated by commas.

    Raises:
        UsageError: If a part is not a site.
    """
    if text.strip() == "all":
        return tuple(Site(layer) for layer in range(depth))
    return tuple(dict.fromkeys(Site.parse(part) for part in text.split(",")))


def show_captured(done: Captured, card: StoreCard, part: Part, folder: Path) -> None:
    """What this process did: tokens, size, speed, padding."""
    who = f"process {part.rank} of {part.world}: " if part.world > 1 else ""
    if done.written:
        rate = done.tokens / max(done.seconds, 1e-9)
        console.print(
            f"{who}{done.tokens:,} tokens at {_count(len(card.identity.sites), 'site')}, {done.size / 1e6:,.1f} MB in "
            f"{_count(done.written, 'shard')}, {done.seconds:.1f} s: {rate:,.0f} tokens/s kept, "
            f"{done.read / max(done.seconds, 1e-9):,.0f} tokens/s read"
        )
        shares = card.packing.padding_share
        console.print(
            f"padding {done.padding_share:.1%} of what was computed; rows were {card.packing.way} (padding of the "
            f"whole set packed {shares['packed']:.1%}, padded {shares['padded']:.1%})"
        )
    if done.kept or done.redone:
        console.print(
            f"{who}kept {_count(done.kept, 'shard')} that were whole already; did {len(done.redone)} damaged ones again"
        )
    console.print(
        f"{'wrote' if done.complete else 'other processes still write to'} {escape(str(folder))}",
        soft_wrap=True,
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _device() -> torch.device | None:
    """The GPU of this process under ``torchrun``; ``None``: the usual choice."""
    local = os.environ.get("LOCAL_RANK")
    return torch.device("cuda", int(local)) if local is not None and torch.cuda.is_available() else None
