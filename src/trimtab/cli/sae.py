"""``trimtab sae``: signatures and help; ``cli/sae_actions.py`` and ``cli/sae_clusters.py`` hold what they do."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.lazy import LazyModule

if TYPE_CHECKING:
    from trimtab.cli import sae_actions, sae_clusters
else:
    sae_actions = LazyModule("trimtab.cli.sae_actions")
    sae_clusters = LazyModule("trimtab.cli.sae_clusters")

app = typer.Typer(help="Sparse autoencoders, in SAELens's format.", no_args_is_help=True, rich_markup_mode=None)


class Architecture(StrEnum):
    """What can be trained."""

    topk = "topk"
    batchtopk = "batchtopk"
    jumprelu = "jumprelu"
    matryoshka = "matryoshka"


class Role(StrEnum):
    """Whose turns."""

    assistant = "assistant"
    user = "user"
    system = "system"
    any = "any"


@app.command("train")
def train(
    store: Annotated[Path, typer.Option("--store", help="Capture store; make one with `trimtab capture`.")],
    site: Annotated[str, typer.Option("--site", help="LAYER or LAYER.STREAM; one that the store holds.")],
    features: Annotated[int, typer.Option("--features", min=2, help="Number of features.")],
    out: Annotated[Path, typer.Option("--out", help="Folder; the same command resumes it.")],
    architecture: Annotated[Architecture, typer.Option(help="What to train.")] = Architecture.batchtopk,
    k: Annotated[int, typer.Option("--k", min=1, help="Features active on a token, exactly or on average.")] = 32,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens to train on; default: all of them once.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Tokens in a step.")] = 2048,
    learning_rate: Annotated[float | None, typer.Option(help="Peak; default: by features and steps.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of first weights and the order of tokens.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: the GPU where there is one.")] = None,
) -> None:
    """Train a sparse autoencoder on captured activations. Interrupted, the same command resumes."""
    sae_actions.train(
        store=store,
        site=site,
        out=out,
        settings={
            "architecture": architecture.value,
            "features": features,
            "k": k,
            "tokens": tokens,
            "batch": batch,
            "learning_rate": learning_rate,
            "seed": seed,
        },
        device=device,
    )


@app.command("eval")
def evaluate(
    sae: Annotated[str, typer.Argument(help="Folder, or Hub repository OWNER/NAME, in SAELens's format.")],
    store: Annotated[Path | None, typer.Option("--store", help="Capture store of tokens to rebuild.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Rows to rebuild instead; also measures what the model loses.")
    ] = None,
    concept: Annotated[
        list[str] | None,
        typer.Option("--concept", help="NAME=FILE of labelled rows: a concept to read from the features; repeatable."),
    ] = None,
    model: Annotated[str, typer.Option("--model", help="`lab`, a Hugging Face id, or a folder.")] = "lab",
    revision: Annotated[str | None, typer.Option(help="Git revision of the model; pin it.")] = None,
    subfolder: Annotated[str, typer.Option(help="Folder of the autoencoder inside its repository.")] = "",
    sae_revision: Annotated[str | None, typer.Option(help="Git revision of the autoencoder; pin it.")] = None,
    site: Annotated[str | None, typer.Option(help="Where it reads, if its configuration does not say.")] = None,
    input_scale: Annotated[
        float | None, typer.Option(help="Factor of its input, if its configuration wants one and has none.")
    ] = None,
    role: Annotated[Role, typer.Option(help="Whose words are read.")] = Role.assistant,
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens to rebuild.")] = 200_000,
    trust_model_match: Annotated[
        bool, typer.Option("--trust-model-match", help="Believe that it belongs to the model; no hash says so.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of intervals and of the splits of labelled rows.")] = 0,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the figures as JSON.")] = None,
) -> None:
    """Fidelity, sparsity, dead features, loss recovered, and concepts known in advance beside a probe."""
    sae_actions.evaluate(
        sae,
        source=(subfolder, sae_revision, site, input_scale),
        host=(model, revision, trust_model_match),
        store=store,
        data=data,
        concepts=tuple(concept or ()),
        how=(role.value, tokens, seed),
        json_out=json_out,
    )


@app.command("clusters")
def clusters(
    sae: Annotated[str, typer.Argument(help="Folder, or Hub repository OWNER/NAME, in SAELens's format.")],
    data: Annotated[Path, typer.Option("--data", help="Rows on which features fire together or not; no labels.")],
    out: Annotated[Path, typer.Option("--out", help="New folder: clusters.json, and one folder per lens.")],
    model: Annotated[str, typer.Option("--model", help="`lab`, a Hugging Face id, or a folder.")] = "lab",
    revision: Annotated[str | None, typer.Option(help="Git revision of the model; pin it.")] = None,
    subfolder: Annotated[str, typer.Option(help="Folder of the autoencoder inside its repository.")] = "",
    sae_revision: Annotated[str | None, typer.Option(help="Git revision of the autoencoder; pin it.")] = None,
    site: Annotated[str | None, typer.Option(help="Where it reads, if its configuration does not say.")] = None,
    input_scale: Annotated[
        float | None, typer.Option(help="Factor of its input, if its configuration wants one and has none.")
    ] = None,
    role: Annotated[Role, typer.Option(help="Whose words are read.")] = Role.assistant,
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens to read.")] = 200_000,
    smallest: Annotated[int, typer.Option(min=2, help="Fewest features of a cluster.")] = 4,
    edges: Annotated[
        float, typer.Option(help="Share of all pairs of features that are joined, strongest first.")
    ] = 0.01,
    density: Annotated[float, typer.Option(help="Higher gives more and tighter clusters.")] = 0.05,
    trust_model_match: Annotated[
        bool, typer.Option("--trust-model-match", help="Believe that it belongs to the model; no hash says so.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the search for communities.")] = 0,
) -> None:
    """Features that fire on the same rows, as lenses: what shows without being asked for."""
    sae_clusters.clusters(
        sae,
        source=(subfolder, sae_revision, site, input_scale),
        host=(model, revision, trust_model_match),
        data=data,
        out=out,
        how=(role.value, tokens),
        settings=(smallest, edges, density, seed),
    )
