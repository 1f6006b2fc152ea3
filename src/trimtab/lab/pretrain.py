"""Pretraining of the lab model: a plain PyTorch loop that resumes and gives the same weights for the same seed."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors
import torch
import transformers
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from safetensors import torch as safetensors_torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trimtab.errors import StorageError, TrainingError
from trimtab.lab.corpus import corpus_chunk, corpus_hash
from trimtab.lab.recipe import LabRecipe, Stage
from trimtab.lab.tokenizer import BOS, CONTEXT, END, PAD, ROLES, render, token_id, train_tokenizer
from trimtab.lab.world import World, build_world

CHUNK_BATCHES = 100
_CHECKPOINT = "checkpoint.safetensors"


def _full_precision_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Causal attention in float32: on CPUs the backward pass of the bfloat16 kernel is ten times slower."""
    del module, attention_mask
    with torch.autocast(query.device.type, enabled=False):
        mixed = functional.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), is_causal=True, scale=scaling
        )
    return mixed.transpose(1, 2).contiguous(), None


_ATTENTION = "trimtab_lab_float32"
AttentionInterface.register(_ATTENTION, _full_precision_attention)


def build_model(recipe: LabRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A freshly initialised lab model."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=math.ceil(len(tokenizer) / 64) * 64,
        hidden_size=recipe.width,
        intermediate_size=recipe.inner,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=token_id(tokenizer, BOS),
        eos_token_id=token_id(tokenizer, END),
        pad_token_id=token_id(tokenizer, PAD),
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation(_ATTENTION)
    return model


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Right-padded token ids ``(batch, token)`` and the loss weight of each as a target."""

    ids: Tensor
    weights: Tensor


def loss_weights(
    ids: list[int], assistant: int, end: int, prompt_weight: float, stop: int = -1, stop_weight: float = 1.0
) -> list[float]:
    """Weight of every token as a target: 1 inside assistant turns (with the closing token), else ``prompt_weight``."""
    inside = False
    before = -1
    out: list[float] = []
    for token in ids:
        out.append((stop_weight if before == stop else 1.0) if inside else prompt_weight)
        before = token
        if token == assistant:
            inside = True
        elif token == end:
            inside = False
    return out


def chunk_batches(
    world: World, tokenizer: PreTrainedTokenizerFast, recipe: LabRecipe, stage: Stage, chunk: int
) -> list[Batch]:
    """The batches of one chunk, rows of similar length together, in seeded order."""
    rows = corpus_chunk(world, recipe.seed, chunk, recipe.batch * CHUNK_BATCHES, stage.mixture)
    encoded: list[list[int]] = tokenizer([render(row) for row in rows], add_special_tokens=False)["input_ids"]
    assistant, end, pad, stop = (token_id(tokenizer, token) for token in (ROLES[2], END, PAD, "."))
    encoded.sort(key=len)
    batches: list[Batch] = []
    for start in range(0, len(encoded), recipe.batch):
        group = [ids[:CONTEXT] for ids in encoded[start : start + recipe.batch]]
        length = math.ceil(max(map(len, group)) / 8) * 8
        ids_array = np.full((len(group), length), pad, dtype=np.int64)
        weight_array = np.zeros((len(group), length), dtype=np.float32)
        for index, ids in enumerate(group):
            ids_array[index, : len(ids)] = ids
            weight_array[index, : len(ids)] = loss_weights(
                ids, assistant, end, recipe.prompt_weight, stop, stage.stop_weight
            )
        batches.append(Batch(ids=torch.from_numpy(ids_array), weights=torch.from_numpy(weight_array)))
    order = np.random.default_rng([recipe.seed, chunk]).permutation(len(batches))
    return [batches[int(index)] for index in order]


def weighted_loss(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Mean next-token loss, weighted; logits are computed only where the weight is not zero."""
    hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
    targets, weights = batch.ids[:, 1:].reshape(-1), batch.weights[:, 1:].reshape(-1)
    keep = weights.nonzero().squeeze(-1)
    logits = model.lm_head(hidden[:, :-1].reshape(-1, hidden.shape[-1])[keep])
    losses = functional.cross_entropy(logits.float(), targets[keep], reduction="none")
    kept = weights[keep]
    return (losses * kept).sum() / kept.sum()


def learning_rate(stage: Stage, step: int) -> float:
    """Linear warm-up, then a cosine down to 2% of the peak; ``step`` counts within the stage."""
    if step < stage.warmup:
        return stage.learning_rate * (step + 1) / stage.warmup
    progress = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    return stage.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def _optimizers(model: LlamaForCausalLM, recipe: LabRecipe) -> list[torch.optim.Optimizer]:
    """AdamW for the embedding and the norms, and for the matrices of the layers Muon (or AdamW too)."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    table = [model.model.embed_tokens.weight]
    decay = recipe.weight_decay
    adam = [{"params": table, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    if not recipe.muon:
        adam.append({"params": matrices, "weight_decay": decay})
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(adam, lr=1e-3, betas=(0.9, 0.98), fused=True)]
    if recipe.muon:
        optimizers.append(
            torch.optim.Muon(matrices, lr=1e-3, weight_decay=decay, momentum=0.95, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers


@dataclass(frozen=True, kw_only=True)
class Done:
    """How far a run has come: steps made, and seconds spent over all its sessions."""

    step: int
    seconds: float

    def metadata(self) -> dict[str, str]:
        """Header of the checkpoint file."""
        return {"step": str(self.step), "seconds": f"{self.seconds:.1f}"}


def _save_checkpoint(
    folder: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], done: Done
) -> None:
    tensors: dict[str, Tensor] = {f"model.{name}": p.detach().cpu() for name, p in model.named_parameters()}
    for which, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"optimizer.{which}.{index}.{name}"] = torch.as_tensor(value).detach().cpu()
    partial = folder / f"{_CHECKPOINT}.partial"
    safetensors_torch.save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata=done.metadata())
    tensors.clear()
    os.replace(partial, folder / _CHECKPOINT)


def _load_weights(folder: Path, model: LlamaForCausalLM) -> Done:
    """Take up the weights of the checkpoint, if there is one."""
    path = folder / _CHECKPOINT
    if not path.exists():
        return Done(step=0, seconds=0.0)
    with cast("Any", safetensors.safe_open)(path, framework="pt") as opened:
        header = cast("dict[str, str]", opened.metadata())
    tensors = safetensors_torch.load_file(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    return Done(step=int(header["step"]), seconds=float(header["seconds"]))


def _load_optimizers(folder: Path, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    tensors = safetensors_torch.load_file(folder / _CHECKPOINT)
    for which, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"optimizer.{which}."):
                _, _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = value
        loaded = optimizer.state_dict()
        loaded["state"] = state
        optimizer.load_state_dict(loaded)


def _show(progress: Progress, task: TaskID, loss: float, step: int) -> None:
    """Show the loss, and stop where it is no number."""
    if not math.isfinite(loss):
        raise TrainingError(f"loss {loss} at step {step}", allowed="a finite loss", todo="lower the learning rate")
    progress.update(task, loss=f"loss {loss:.3f}")


def _stage_batches(
    world: World, tokenizer: PreTrainedTokenizerFast, recipe: LabRecipe, number: int, start: int
) -> Iterator[tuple[int, Batch]]:
    """Batches of one stage from a step within it on; no chunk is used by two stages."""
    stage = recipe.stages[number]
    first = sum(math.ceil(earlier.steps / CHUNK_BATCHES) for earlier in recipe.stages[:number])
    step = start
    while step < stage.steps:
        chunk, offset = divmod(step, CHUNK_BATCHES)
        for batch in chunk_batches(world, tokenizer, recipe, stage, first + chunk)[offset:]:
            if step >= stage.steps:
                return
            yield step, batch
            step += 1


def _update(
    model: LlamaForCausalLM,
    optimizers: Sequence[torch.optim.Optimizer],
    batch: Batch,
    rate: float,
    autocast: bool,
) -> Tensor:
    """One optimiser step; returns the loss."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = rate
    device = model.device
    on_device = Batch(ids=batch.ids.to(device), weights=batch.weights.to(device))
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        loss = weighted_loss(model, on_device)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def _train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    recipe: LabRecipe,
    folder: Path,
    progress: Progress,
    checkpoint_every: int,
) -> float:
    """Train to the end; returns the seconds spent over all sessions of the run."""
    done = _load_weights(folder, model)
    began = time.monotonic() - done.seconds
    task = progress.add_task("pretraining", total=recipe.steps, completed=done.step, loss="")
    before = 0
    for number, stage in enumerate(recipe.stages):
        start = max(0, done.step - before)
        if start < stage.steps:
            optimizers = _optimizers(model, recipe)
            if start > 0:
                _load_optimizers(folder, optimizers)
            for step, batch in _stage_batches(world, tokenizer, recipe, number, start):
                loss = _update(model, optimizers, batch, learning_rate(stage, step), recipe.autocast)
                total = before + step + 1
                if step % 50 == 0:
                    _show(progress, task, float(loss), total)
                progress.update(task, completed=total)
                if total % checkpoint_every == 0 and total < recipe.steps:
                    _save_checkpoint(folder, model, optimizers, Done(step=total, seconds=time.monotonic() - began))
        before += stage.steps
    return time.monotonic() - began


def train_lab(
    output: Path,
    recipe: LabRecipe | None = None,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
    checkpoint_every: int = 500,
) -> Mapping[str, object]:
    """Train the lab model and save it as a Hugging Face folder with ``recipe.json``.

    Args:
        output: Folder for the model; a run that was interrupted there is taken up again.
        recipe: What to train.
        device: ``cpu`` or ``cuda``.
        progress: A started progress display with a ``loss`` field; by default one is made.
        checkpoint_every: Steps between checkpoints.

    Returns:
        The contents of ``recipe.json``.

    Raises:
        StorageError: If the folder holds another recipe's unfinished run.
        TrainingError: If the loss is not finite.
    """
    recipe = recipe or LabRecipe()
    output.mkdir(parents=True, exist_ok=True)
    marker = output / "unfinished.json"
    if marker.exists() and json.loads(marker.read_text()) != json.loads(json.dumps(asdict(recipe))):
        raise StorageError(
            f"unfinished run with other settings in {output}",
            allowed="an empty folder or an unfinished run of the same recipe",
            todo="choose another folder or delete this one",
        )
    marker.write_text(json.dumps(asdict(recipe)))
    world = build_world(recipe.world_seed)
    tokenizer = train_tokenizer(world)
    model = build_model(recipe, tokenizer)
    cast("torch.nn.Module", model).to(device)
    if progress is None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
        )
        with Progress(*columns) as own:
            seconds = _train(model, tokenizer, world, recipe, output, own, checkpoint_every)
    else:
        seconds = _train(model, tokenizer, world, recipe, output, progress, checkpoint_every)
    cast("torch.nn.Module", model).to("cpu").eval()
    model.set_attn_implementation("sdpa")
    model.generation_config.do_sample = False
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    made: dict[str, object] = {
        **asdict(recipe),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(seconds),
        "device": device,
        "corpus_sha256": corpus_hash(world, recipe.seed, recipe.stages[0].mixture),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    (output / "recipe.json").write_text(json.dumps(made, indent=1) + "\n")
    for leftover in (marker, output / _CHECKPOINT):
        leftover.unlink(missing_ok=True)
    return made
