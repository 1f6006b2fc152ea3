"""Training trains what it says, by the Trainer's own rule, and leaves everything else alone."""

from __future__ import annotations

import json
import resource
import warnings
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from train_world import SETTINGS, STEPS, Push, arm, host, rows, same, train, weights
from trimtab.data.batches import collate
from trimtab.errors import DataError, StorageError, TrainingError, UsageError
from trimtab.model.fingerprint import content_hash
from trimtab.records.training import IGNORED, Encoded, Surface, TrainingRow
from trimtab.train import sft
from trimtab.train.checkpoints import newest_complete
from trimtab.train.order import row_order
from trimtab.train.pool import run_jobs
from trimtab.train.sft import prepare_rows
from trimtab.train.student import load_student, make_student
from trimtab.train.trainer import TrainProgress


def by_hand(seed: int = 0) -> tuple[PreTrainedModel, list[float]]:
    """Full-weight training written out: the loss is the mean over the learned tokens of a step."""
    given = host()
    prepared = prepare_rows(given.tokenizer, rows(), (), max_length=64)
    order = row_order([len(row.input_ids) for row in prepared.rows], steps=STEPS, batch_size=3, seed=seed)
    student = given.student().train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2, weight_decay=0.0)
    losses: list[float] = []
    for step in range(STEPS):
        rate = min((step) / 2, (STEPS - step) / (STEPS - 2))
        optimizer.param_groups[0]["lr"] = 1e-2 * rate
        batch = collate([prepared.rows[row] for row in order[3 * step : 3 * step + 3]], 0)
        logits = student(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1]
        labels = batch.labels[:, 1:]
        loss = torch.nn.functional.cross_entropy(logits[labels != IGNORED], labels[labels != IGNORED])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return student, losses


def test_full_weights_equal_a_loop_written_by_hand(tmp_path: Path) -> None:
    result = train(tmp_path, method="full", controls=())
    student, losses = by_hand()
    trained = load_student(host(), tmp_path).model
    for (name, mine), (_, theirs) in zip(trained.named_parameters(), student.named_parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=2e-4, msg=name)
    expected = [float(np.mean(losses[start : start + 2])) for start in range(0, STEPS, 2)]
    assert [line.loss for line in result.curve] == pytest.approx(expected, rel=1e-4)
    assert result.final_loss == result.curve[-1].loss
    assert result.steps == STEPS


def test_the_loss_falls_and_the_host_stays(tmp_path: Path) -> None:
    given = host()
    before = {name: tensor.clone() for name, tensor in given.model.state_dict().items()}
    result = train(tmp_path, host=given, max_steps=30, method="lora")
    assert result.final_loss < 0.6 * result.curve[0].loss
    assert same(before, given.model.state_dict())
    assert not any(parameter.requires_grad for parameter in given.model.parameters())


def test_lora_learns_its_adapter_only_and_lies_as_peft_expects(tmp_path: Path) -> None:
    train(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (2, 4, 0.0)
    assert set(config["target_modules"]) == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    assert all("lora_" in name for name in weights(tmp_path))
    assert not list(tmp_path.glob("*.bin"))
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == host().tokenizer.chat_template


def test_a_merged_adapter_computes_what_the_adapter_does(tmp_path: Path) -> None:
    train(tmp_path)
    student = load_student(host(), tmp_path)
    ids = torch.arange(1, 20).unsqueeze(0)
    wrapped = make_student(host(), SETTINGS, seed=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        wrapped.load_adapter(str(tmp_path), "default")
    with torch.no_grad():
        merged, attached = student.model(ids).logits, wrapped(ids).logits
        untrained = host().model(ids).logits
    torch.testing.assert_close(merged, attached, rtol=1e-4, atol=1e-4)
    assert (merged - untrained).abs().max() > 0.1
    assert student.content_hash == content_hash(student.model) != host().content_hash
    assert not student.model.training
    assert not any(parameter.requires_grad for parameter in student.model.parameters())


def test_full_weights_load_like_any_model(tmp_path: Path) -> None:
    train(tmp_path, method="full")
    mine = load_student(host(), tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert same(mine.model.state_dict(), theirs.state_dict())
    assert theirs.config.use_cache
    assert not list(tmp_path.glob("*.bin"))


def test_an_empty_folder_holds_no_student(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no trained student"):
        load_student(host(), tmp_path)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "gemma3", "qwen3"])
def test_lora_on_every_architecture(tmp_path: Path, architecture: str) -> None:
    result = train(tmp_path, architecture=architecture, max_steps=3)
    assert result.steps == 3
    assert load_student(host(architecture), tmp_path).content_hash != host(architecture).content_hash


def test_bf16_autocast_differs_and_does_not_stick(tmp_path: Path) -> None:
    train(tmp_path / "float32")
    train(tmp_path / "bf16", bf16=True)
    train(tmp_path / "again")
    assert not same(weights(tmp_path / "bf16"), weights(tmp_path / "float32"))
    assert same(weights(tmp_path / "again"), weights(tmp_path / "float32"))
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path / "bf16").values())


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Writes down when it is called; changes nothing."""

    name: str
    calls: list[str] = field(default_factory=list)
    surface: Surface = "data"
    fights_gradient: bool = False

    def rewrite(self, given: Sequence[TrainingRow]) -> Sequence[TrainingRow]:
        self.calls.append(f"{self.name} rewrite")
        return given

    def relabel(self, encoded: Encoded) -> Encoded:
        if encoded.source == 0:
            self.calls.append(f"{self.name} relabel")
        return encoded

    @contextmanager
    def attach(self, student: PreTrainedModel) -> Generator[None]:
        assert isinstance(student, PreTrainedModel)
        assert any("lora_" in name for name, _ in student.named_parameters())
        self.calls.append(f"{self.name} on")
        try:
            yield
        finally:
            self.calls.append(f"{self.name} off")


def test_controls_are_called_in_turn_and_come_off(tmp_path: Path) -> None:
    calls: list[str] = []
    controls = (Watched(name="a", calls=calls), Watched(name="b", calls=calls))
    train(tmp_path / "watched", controls=controls)
    assert calls == ["a rewrite", "b rewrite", "a relabel", "b relabel", "a on", "b on", "b off", "a off"]
    train(tmp_path / "plain", controls=())
    assert same(weights(tmp_path / "watched"), weights(tmp_path / "plain"))
    train(tmp_path / "pushed", controls=(Push(),))
    assert not same(weights(tmp_path / "pushed"), weights(tmp_path / "plain"))


def test_controls_come_off_when_training_stops(tmp_path: Path) -> None:
    def stop(now: TrainProgress) -> None:
        raise KeyboardInterrupt

    calls: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, controls=(Watched(name="a", calls=calls),), progress=stop)
    assert calls[-1] == "a off"


@dataclass(frozen=True, kw_only=True)
class Masks(Watched):
    """Takes every token of some rows out of the loss."""

    sources: tuple[int, ...]

    def relabel(self, encoded: Encoded) -> Encoded:
        if encoded.source in self.sources:
            return Encoded(input_ids=encoded.input_ids, labels=(IGNORED,) * len(encoded.labels), source=encoded.source)
        return encoded


def test_rows_without_a_learned_token_are_dropped_and_counted(tmp_path: Path) -> None:
    result = train(tmp_path, controls=(Masks(name="mask", sources=(1, 4)),))
    assert (result.rows, result.dropped) == (5, 2)
    with pytest.raises(DataError, match=r"none of 7 rows .*mask"):
        train(tmp_path / "all", controls=(Masks(name="mask", sources=tuple(range(7))),))


def test_progress_tells_every_step(tmp_path: Path) -> None:
    seen: list[TrainProgress] = []
    train(tmp_path, progress=seen.append)
    assert [(now.step, now.steps) for now in seen] == [(step, STEPS) for step in range(1, STEPS + 1)]
    assert seen[0].loss is None
    assert seen[-1].loss is not None


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, method="full")
    assert capfd.readouterr() == ("", "")


@contextmanager
def nan_loss(student: PreTrainedModel, step: int) -> Generator[None]:
    """Spoil the loss of one step."""
    passes = 0

    def spoil(module: torch.nn.Module, inputs: object, output: dict[str, torch.Tensor]) -> None:
        nonlocal passes
        passes += 1
        if passes == step:
            output["loss"].data.mul_(float("nan"))

    handle = student.register_forward_hook(spoil)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True, kw_only=True)
class Spoils(Watched):
    """Makes the loss of one step NaN."""

    step: int

    def attach(self, student: PreTrainedModel) -> AbstractContextManager[None]:
        return nan_loss(student, self.step)


def test_a_loss_that_is_not_finite_stops_with_earlier_work_kept(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        train(tmp_path, controls=(Spoils(name="spoil", step=8),), method="full")
    assert "the loss is nan at step 8" in str(caught.value)
    assert "learning rate 0.00" in str(caught.value)
    assert str(tmp_path / "checkpoint-6") in str(caught.value)
    last = newest_complete(tmp_path)
    assert last is not None
    assert last.step == 6
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights(last.folder).values())


def test_an_absurd_learning_rate_leaves_no_bad_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no checkpoint was written yet"):
        train(tmp_path, learning_rate=1e38, method="full", save_steps=1, warmup_steps=0)
    assert not list(tmp_path.glob("checkpoint-*"))


@contextmanager
def file_size_limit(limit: int) -> Generator[None]:
    """No file may grow beyond ``limit`` bytes: writes fail as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("limit", [9_000, 40_000], ids=["weights", "optimizer"])
def test_a_full_disk_is_a_storage_error_and_the_call_resumes(tmp_path: Path, method: str, limit: int) -> None:
    train(tmp_path / "straight", method=method)

    def fill(now: TrainProgress) -> None:
        if now.step == 5:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

    with file_size_limit(resource.RLIM_INFINITY), pytest.raises(StorageError, match="checkpoint-6"):
        train(tmp_path / "full", method=method, progress=fill)
    assert [path.name for path in (tmp_path / "full").glob("checkpoint-*")] == ["checkpoint-3"]
    train(tmp_path / "full", method=method)
    assert same(weights(tmp_path / "full"), weights(tmp_path / "straight"))


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        train(tmp_path / "file" / "arm")


def test_two_processes_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sft, "_PATIENCE", 0.1)

    def again(now: TrainProgress) -> None:
        train(tmp_path)

    with pytest.raises(StorageError, match="another process"):
        train(tmp_path, progress=again)


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="WORLD_SIZE"):
        train(tmp_path)


def test_rows_that_are_too_long_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        train(tmp_path, max_length=12)
    assert len(caught.value.faults) > 1
    assert caught.value.faults[0].file == "tiny.jsonl"


def test_side_by_side_gives_the_same_bits_as_one_after_the_other(tmp_path: Path) -> None:
    alone = [(str(tmp_path / f"alone-{seed}"), seed) for seed in range(2)]
    beside = [(str(tmp_path / f"beside-{seed}"), seed) for seed in range(2)]
    seen: list[tuple[int, int]] = []
    first = run_jobs(arm, alone, workers=1, threads=1)
    second = run_jobs(arm, beside, workers=2, threads=1, progress=lambda job, now: seen.append((job, now.step)))
    assert first == second
    assert first[0] != first[1]
    for (one, _), (other, _) in zip(alone, beside, strict=True):
        assert same(weights(Path(one)), weights(Path(other)))
    assert sorted(seen) == [(job, step) for job in range(2) for step in range(1, 5)]
