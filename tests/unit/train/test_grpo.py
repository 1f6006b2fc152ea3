"""Training under a reward: the right sign, the right tokens, whole on resume, and nothing but numbers from the host."""

from __future__ import annotations

import errno
import multiprocessing
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from trl.trainer.grpo_trainer import GRPOTrainer

from policy_world import (
    PROMPTS,
    SETTINGS,
    STEPS,
    WANTED,
    Letters,
    judge,
    middles,
    stop_at,
    train,
    train_and_die,
)
from tiny_models import tokenizer
from train_world import host, same, weights
from trimtab.data.template import words_after
from trimtab.errors import StorageError, TrainingError, UsageError
from trimtab.lens.probes.linear import LogisticLens
from trimtab.model.base import LanguageModel
from trimtab.model.host import Host
from trimtab.records.claims import Prompt
from trimtab.records.lens import Calibration, LensCard
from trimtab.records.rewards import Credit, Scored
from trimtab.records.rows import Message
from trimtab.records.site import Site
from trimtab.reward.feature import ANCHOR, FeatureReward
from trimtab.reward.reading import ClaimReader, lens_probe
from trimtab.roles import Reward
from trimtab.train import grpo
from trimtab.train.advantages import dense_advantages
from trimtab.train.checkpoints import newest_complete
from trimtab.train.grpo import PolicyResult
from trimtab.train.grpo_trainer import FeatureTrainer, grpo_arguments
from trimtab.train.metrics import Journal
from trimtab.train.student import load_student
from trimtab.train.turning import token_spans


@dataclass
class Batches:
    """Makes trainers that keep what they train on, and what they were asked to answer."""

    seen: list[dict[str, torch.Tensor]] = field(default_factory=list)
    asked: list[list[list[int]]] = field(default_factory=list)

    def __call__(self, *given: Any, **named: Any) -> FeatureTrainer:  # noqa: ANN401
        batches = self

        class Kept(FeatureTrainer):
            def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
                batch = super()._generate_and_score_completions(inputs)
                batches.seen.append({name: value.clone() for name, value in batch.items()})
                return batch

        return Kept(*given, **named)


def lines(result: PolicyResult) -> list[tuple[object, ...]]:
    """Every line of metrics but for its clock."""
    return [(line.step, line.loss, line.learning_rate, line.grad_norm, line.terms) for line in result.curve]


def log_probabilities(model: LanguageModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Of every token of the answers, ``[answer, token]``."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    with torch.no_grad():
        logits = model.model(ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    return logits.gather(-1, ids[:, 1:, None])[:, -batch["completion_ids"].shape[1] :, 0]


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("loss_type", ["cispo", "grpo"])
@pytest.mark.parametrize("dense", [True, False])
def test_a_step_makes_paid_tokens_likelier(tmp_path: Path, method: str, loss_type: str, dense: bool) -> None:
    batches = Batches()
    train(tmp_path, method=method, loss_type=loss_type, dense=dense, max_steps=1, beta=0.0, make=batches)
    (batch,) = batches.seen
    assert batch["advantages"].dim() == (2 if dense else 1)
    advantages = batch["advantages"].reshape(len(batch["completion_ids"]), -1)
    assert advantages.min() < -0.1 < 0.1 < advantages.max()
    before, after = (log_probabilities(model, batch) for model in (host(), load_student(host(), tmp_path)))
    assert (advantages * (after - before) * batch["completion_mask"]).sum() > 0


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_reward_rises(tmp_path: Path, method: str) -> None:
    rate = {"full": 5e-3, "lora": 5e-2}[method]
    batch = {"per_device_train_batch_size": 48, "num_generations": 16, "max_completion_length": 3}
    result = train(tmp_path, method=method, max_steps=12, learning_rate=rate, save_steps=12, beta=0.0, **batch)
    got = [line.terms["share"] for line in result.curve]
    assert sum(got[-3:]) / 3 > sum(got[:3]) / 3 + 0.15


def test_the_kl_is_to_the_host_wherever_that_came_from(tmp_path: Path) -> None:
    given = host()
    given.model.config._name_or_path = "nowhere/at-all"
    before = {name: value.clone() for name, value in given.model.state_dict().items()}
    result = train(tmp_path, host=given)
    assert abs(result.curve[0].terms["kl"]) < 1e-6 < 1e-3 < result.curve[-1].terms["kl"]
    assert same(before, given.model.state_dict())
    assert "forward" not in vars(given.model)
    assert given.tokenizer.init_kwargs == host().tokenizer.init_kwargs


def test_beta_follows_the_kl(tmp_path: Path) -> None:
    low = train(tmp_path / "low", kl_target=1e-6)
    high = train(tmp_path / "high", kl_target=1e6)
    assert [round(line.terms["beta"] / SETTINGS.beta, 3) for line in high.curve] == [1.0] * STEPS
    betas = [line.terms["beta"] / SETTINGS.beta for line in low.curve]
    assert betas[1:] == pytest.approx([1.1**n for n in range(1, STEPS)])


def make_trainer(folder: Path, **changed: Any) -> FeatureTrainer:  # noqa: ANN401
    """A trainer as ``train_policy`` makes it, not yet started."""
    settings, given = SETTINGS.model_copy(update=changed), host()
    student = given.student()
    return FeatureTrainer(
        student,
        settings,
        grpo_arguments(settings, folder=folder, seed=0, on_cpu=True),
        reward=Letters(),
        prompts=PROMPTS,
        wanted=WANTED,
        tokenizer=given.tokenizer,
        reference=given.model,
        journal=Journal(path=folder / "metrics.jsonl"),
    )


def scored(answer: float, *credits: tuple[int, int, float]) -> Scored:
    return Scored(answer=answer, credits=tuple(Credit(start=a, end=b, value=v) for a, b, v in credits))


def test_every_token_has_the_advantage_of_its_answer_and_of_its_claim(tmp_path: Path) -> None:
    made = make_trainer(tmp_path, num_generations=2, per_device_train_batch_size=4)
    texts = ["It is 5. Arr.", "Be brief.", "Mira lives in Oslo.", ""]
    rewards = (
        scored(0.25, (0, 8, 1.0), (8, 13, -0.5)),
        scored(-0.75),
        scored(1.0, (5, 10, 0.3)),
        scored(0.0),
    )
    ids = [[*made.processing_class.encode(text), 1] for text in texts]
    width = max(map(len, ids))
    padded = torch.tensor([[*row, *[0] * (width - len(row))] for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    made._scored = rewards
    batch = {"completion_ids": padded, "completion_mask": mask}
    made._pay_tokens(batch)
    got = batch["advantages"]
    assert not got[mask == 0].any()

    answers, claims = [0.25, -0.75, 1.0, 0.0], [1.0, -0.5, 0.3]

    def variance(values: list[float]) -> float:
        return sum((value - sum(values) / len(values)) ** 2 for value in values) / len(values)

    scale = (variance(answers) + variance(claims)) ** 0.5 + 1e-4
    for row, one in enumerate(rewards):
        group = rewards[row // 2 * 2 : row // 2 * 2 + 2]
        paid = [credit.value for member in group for credit in member.credits]
        base = sum(member.answer for member in group) / 2
        place = 0
        for column, token in enumerate(ids[row]):
            end = place + len(made.processing_class.decode([token], skip_special_tokens=True))
            expected = one.answer - base
            for credit in one.credits:
                if any(credit.start <= character < credit.end for character in range(place, end)):
                    expected += credit.value - sum(paid) / len(paid)
            assert got[row, column].item() == pytest.approx(expected / scale, abs=1e-5)
            place = end
    assert len({round(value, 4) for value in got[0, : len(ids[0])].tolist()}) == 3, "two claims, and the end token"


@dataclass(frozen=True)
class Stripping:
    """Decodes as sentencepiece does: the first word of what is decoded loses its space."""

    words: tuple[str, ...] = ("", " Oslo", " is", "<0xC3>", "<0xA9>", " big")

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        parts = [self.words[i] for i in ids]
        raw = b"".join(bytes([int(p[3:5], 16)]) if p.startswith("<0x") else p.encode() for p in parts)
        return raw.decode(errors="replace").removeprefix(" ")


def test_tokens_that_are_parts_of_a_character_span_it() -> None:
    made = tokenizer()
    text = "Mira é 🦜 5."
    ids = made.encode(text)
    end = made.convert_tokens_to_ids("<|end|>")
    spans = token_spans(made, [*ids, end])
    assert spans[-1] == (len(text), len(text))
    covered = [set(range(*span)) for span in spans]
    assert set.union(*covered) == set(range(len(text)))
    for character, symbol in enumerate(text):
        holders = [place for place, places in enumerate(covered) if character in places]
        assert symbol in made.decode([ids[place] for place in holders])
        assert len(holders) == {"é": 2, "🦜": 4}.get(symbol, 1)


def test_spans_where_tokens_decode_otherwise_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stripping = tokenizer()
    monkeypatch.setattr(stripping, "decode", Stripping().decode)
    assert stripping.decode([1, 2, 3, 4, 5, 0], skip_special_tokens=True) == "Oslo isé big"
    spans = token_spans(stripping, [1, 2, 3, 4, 5, 0])
    assert spans == [(0, 4), (4, 7), (7, 8), (7, 8), (8, 12), (12, 12)]


@dataclass(kw_only=True)
class Given:
    """The same numbers as another reward gave, without it."""

    numbers: list[tuple[Scored, ...]]
    name: str = "feature"
    inner: Reward | None = None

    def __call__(
        self, prompts: Sequence[Prompt], answers: Sequence[str], *, ended: Sequence[bool], wanted: Sequence[float]
    ) -> tuple[Scored, ...]:
        if self.inner is None:
            return self.numbers.pop(0)
        self.numbers.append(self.inner(prompts, answers, ended=ended, wanted=wanted))
        torch.rand(3)
        return self.numbers[-1]

    def adapt(self) -> Mapping[str, float]:
        return {}

    def state(self) -> Mapping[str, float]:
        return {}

    def restore(self, state: Mapping[str, float]) -> None: ...


def test_an_update_by_what_the_host_reads_is_that_by_the_same_numbers_without_a_host(tmp_path: Path) -> None:
    lab = Host.load("lab")
    card = LensCard(
        concept="right",
        meaning="a claim that is right",
        kind="logistic",
        site=Site(2),
        pooling="last",
        model=lab.name,
        model_hash=lab.content_hash,
        calibration=Calibration(temperature=0.1),
    )
    torch.manual_seed(0)
    lens = LogisticLens(card=card, weight=0.02 * torch.randn(lab.d_model), bias=0.0)
    reading = FeatureReward(reader=ClaimReader(lab, lens_probe(lens)))
    prompts = [({"role": "user", "content": f"tell me about {name}."},) for name in ("ann abbot", "the sea")]
    before = {name: value.clone() for name, value in lab.model.state_dict().items()}
    go = partial(
        train, host=lab, prompts=prompts, wanted=(1.0, 1.0), max_steps=2, max_completion_length=24, learning_rate=1e-4
    )
    numbers: list[tuple[Scored, ...]] = []
    go(tmp_path / "read", reward=Given(numbers=numbers, inner=reading))
    values = [credit.value for batch in numbers for one in batch for credit in one.credits]
    assert len(set(values)) > 3, "the probe read claims"
    assert same(before, lab.model.state_dict())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in lab.model.parameters())

    go(tmp_path / "told", reward=Given(numbers=list(numbers)))
    assert same(weights(tmp_path / "read"), weights(tmp_path / "told"))
    other = [tuple(replace(one, answer=-one.answer, credits=()) for one in batch) for batch in numbers]
    go(tmp_path / "other", reward=Given(numbers=other))
    assert not same(weights(tmp_path / "read"), weights(tmp_path / "other"))


def assert_same_run(one: PolicyResult, other: PolicyResult) -> None:
    assert same(weights(one.folder), weights(other.folder))
    assert lines(one) == lines(other)
    assert one.validations == other.validations
    assert one.best_step == other.best_step
    left = {path.name for path in one.folder.iterdir()}
    assert left == {path.name for path in other.folder.iterdir()}
    assert not [name for name in left if name.startswith(("checkpoint", "best", ".best"))]


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> PolicyResult:
    """A run that nothing stopped."""
    return train(tmp_path_factory.mktemp("straight"), validate=judge, kl_target=0.1)


@pytest.mark.parametrize("step", [1, 3, 4, STEPS])
def test_stopped_anywhere_it_ends_with_the_same_bits(tmp_path: Path, straight: PolicyResult, step: int) -> None:
    reward = Letters()
    go = partial(train, tmp_path, validate=judge, kl_target=0.1)
    with pytest.raises(KeyboardInterrupt):
        go(reward=reward, progress=stop_at(step, interrupt))
    reward.price += 17
    seen: list[int] = []
    result = go(reward=reward, progress=lambda now: seen.append(now.step))
    assert seen == list(range(max([save for save in (2, 4, 6) if save < step], default=0) + 1, STEPS + 1))
    assert_same_run(result, straight)


def test_an_adapter_resumes_with_the_same_bits_too(tmp_path: Path) -> None:
    go = partial(train, method="lora", validate=judge, architecture="gpt2")
    first = go(tmp_path / "straight")
    for step in (3, 6):
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "stopped", progress=stop_at(step, interrupt))
    second = go(tmp_path / "stopped")
    assert_same_run(second, first)
    assert not same(weights(second.folder), weights(go(tmp_path / "other", seed=1).folder))


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers end after four tokens at the latest; the student of these tests hardly ever ends one by itself."""
    original = GRPOTrainer._generate_single_turn

    def short(self: GRPOTrainer, *given: Any) -> tuple[list[list[int]], None]:  # noqa: ANN401
        ids, _ = original(self, *given)
        return [[*row[:4], 1] for row in ids], None

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", short)


@pytest.mark.usefixtures("ending")
@pytest.mark.parametrize(("method", "steps_per_generation"), [("full", 2), ("lora", 2), ("full", 1)])
def test_exploring_it_resumes_with_the_same_bits(tmp_path: Path, method: str, steps_per_generation: int) -> None:
    reward = Letters()
    settings = {"method": method, "steps_per_generation": steps_per_generation, "max_completion_length": 24}
    go = partial(train, validate=judge, explore_words="Be brief.", explore=middles, kl_target=0.1, **settings)
    first = go(tmp_path / "straight", reward=reward)
    said = [answer for _, answers, *_ in reward.calls for answer in answers]
    assert len(reward.calls) == -(-STEPS // steps_per_generation)
    assert sum("Be brief." in answer for answer in said) == len(said) / 2
    for step in (3, 5):
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "stopped", progress=stop_at(step, interrupt))
    assert_same_run(go(tmp_path / "stopped"), first)


@pytest.mark.parametrize("max_steps", [1, 3])
def test_prompts_do_not_run_out_where_answers_are_left_over(tmp_path: Path, max_steps: int) -> None:
    reward = Letters()
    result = train(tmp_path, reward=reward, max_steps=max_steps, steps_per_generation=2, per_device_train_batch_size=4)
    assert result.steps == max_steps
    asked = [prompt[0]["content"] for prompts, *_ in reward.calls for prompt in prompts[::4]]
    assert len(asked) == max_steps + 1
    assert len(set(asked)) == min(3, len(asked))


def test_kill_9(tmp_path: Path, straight: PolicyResult) -> None:
    process = multiprocessing.get_context("fork").Process(target=train_and_die, args=(tmp_path, 5))
    process.start()
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "checkpoint-4").exists()
    assert_same_run(train(tmp_path, validate=judge, kl_target=0.1), straight)


def test_validating_changes_nothing_but_what_is_kept(tmp_path: Path, straight: PolicyResult) -> None:
    def draws(student: LanguageModel) -> tuple[float, dict[str, float]]:
        torch.manual_seed(3)
        return 0.0, {}

    assert lines(train(tmp_path, validate=draws, kl_target=0.1)) == lines(straight)


def test_a_finished_student_is_not_trained_again(straight: PolicyResult) -> None:
    reward = Letters()
    again = train(straight.folder, reward=reward, validate=judge, kl_target=0.1)
    assert reward.calls == []
    assert again == straight


def scripted(scores: Sequence[float]) -> Callable[[LanguageModel], tuple[float, dict[str, float]]]:
    """Scores of the steps 1, 2, ..., whatever the student."""

    def validate(student: LanguageModel) -> tuple[float, dict[str, float]]:
        step = int(student.content_hash.removeprefix("step "))
        return scores[step - 1], {}

    return validate


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_best_weights_are_kept(tmp_path: Path, method: str) -> None:
    go = partial(train, method=method, validate_steps=1)
    scores = (0.0, 0.5, 0.9, 0.2, 0.9, 0.9, 0.1)
    kept = go(tmp_path / "kept", validate=scripted(scores))
    assert kept.best_step == 3
    assert kept.steps == STEPS
    assert tuple(line.score for line in kept.validations) == scores
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "short", save_steps=1, progress=stop_at(4, interrupt))
    assert same(weights(kept.folder), weights(tmp_path / "short" / "checkpoint-3"))
    assert not same(weights(kept.folder), weights(tmp_path / "short" / "checkpoint-2"))
    assert load_student(host(), kept.folder).content_hash != host().content_hash


def test_what_was_best_as_of_a_checkpoint_outlives_what_came_after(tmp_path: Path) -> None:
    scores = (0.5, 0.0, 0.0, 0.0, 0.9, 0.0, 0.0)
    go = partial(train, tmp_path, validate_steps=1)
    with pytest.raises(KeyboardInterrupt):
        go(validate=scripted(scores), progress=stop_at(5, interrupt))
    assert sorted(path.name for path in tmp_path.glob("best-*")) == ["best-1", "best-5"]
    result = go(validate=scripted((0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)))
    assert result.best_step == 1
    assert [line.step for line in result.validations] == list(range(1, STEPS + 1))


@dataclass(kw_only=True)
class Flat(Letters):
    """Pays every answer and every claim the same."""

    value: float = 0.1

    def score(self, answer: str) -> Scored:
        return scored(self.value, (0, 1, self.value), (1, 2, self.value)) if answer else scored(self.value)


@pytest.mark.parametrize("dense", [True, False])
def test_equal_rewards_teach_nothing(tmp_path: Path, dense: bool) -> None:
    batches = Batches()
    train(tmp_path, reward=Flat(), dense=dense, max_steps=2, beta=0.0, make=batches)
    assert all(batch["advantages"].abs().max() < 1e-3 for batch in batches.seen)
    untrained = host().model.state_dict()
    for name, value in weights(tmp_path).items():
        assert torch.isfinite(value).all()
        if not dense:
            assert torch.equal(value, untrained[name])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_stops(tmp_path: Path, value: float) -> None:
    with pytest.raises(TrainingError, match="the reward letters is not finite at step 1"):
        train(tmp_path, reward=Flat(value=value))


def test_a_validation_that_is_not_finite_stops_and_leaves_no_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the validation score is nan at step 3"):
        train(tmp_path, validate=lambda student: (float("nan"), {}))
    assert not (tmp_path / "validation.jsonl").exists()
    assert newest_complete(tmp_path) is not None


def long_prompt() -> Prompt:
    return (Message(role="user", content="Arr! " * 200),)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"prompts": ()}, "0 prompts, 3 wanted claims"),
        ({"wanted": (1.0,)}, "3 prompts, 1 wanted claims"),
        ({"num_generations": 3}, "per_device_train_batch_size 8, num_generations 3"),
        ({"logging_steps": 3}, "save_steps 2, logging_steps 3"),
        ({"kl_target": 1.0, "beta": 0.0}, "kl_target 1.0, beta 0"),
        ({"explore_words": "Guess."}, "explore_words 'Guess.' without a reward that says where"),
        ({"explore_words": "Guess.", "explore": middles, "use_vllm": True}, "explore_words with use_vllm"),
        ({"explore_words": "Guess.", "explore": middles, "dense": False}, "explore_words with dense false"),
        ({"freeze_layers": 1, "method": "lora"}, "freeze_layers 1, method lora"),
        ({"freeze_layers": 99}, "freeze_layers 99 of a model with"),
        ({"steps_per_generation": 3}, "save_steps 2, steps_per_generation 3"),
        ({"prompts": (*PROMPTS[:2], long_prompt()), "architecture": "gpt2"}, "prompt 3 has "),
        ({"max_completion_length": 60, "architecture": "gpt2"}, "max_completion_length is 60"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        train(tmp_path / "new", **changed)
    assert named in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="WORLD_SIZE"):
        train(tmp_path)


@pytest.mark.parametrize("error", [RuntimeError("no answer"), OSError(errno.ENOSPC, "No space left on device")])
def test_a_reward_that_fails_midway_leaves_a_run_that_goes_on(
    tmp_path: Path, straight: PolicyResult, error: Exception
) -> None:
    go = partial(train, tmp_path, validate=judge, kl_target=0.1)
    with pytest.raises(type(error), match=r"no answer|No space left"):
        go(reward=Letters(fails_at=4, error=error))
    last = newest_complete(tmp_path)
    assert last is not None
    assert last.step == 2
    assert_same_run(go(), straight)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"learning_rate": 2e-2}, "settings.learning_rate: 0.01 there, 0.02 now"),
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"prompts": PROMPTS[:2], "wanted": WANTED[:2]}, "prompts: "),
        ({"wanted": (0.0, 0.0, 0.0)}, "wanted: "),
        ({"reward": Letters(name="words")}, "reward: "),
        ({"identity": {"probe": "x"}}, "material.probe: nothing there"),
        ({"validate": judge}, "validated: false there, true now"),
        ({"host": host(seed=1)}, "model: "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_another_call_is_refused_in_the_same_folder(stopped: Path, changed: dict[str, Any], named: str) -> None:
    with pytest.raises(StorageError) as caught:
        train(stopped, **changed)
    assert named in str(caught.value)
    assert newest_complete(stopped) is not None


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after its first checkpoint."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(KeyboardInterrupt):
        train(folder, progress=stop_at(3, interrupt))
    return folder


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("place", "step"), [("checkpoint", 5), ("best", 2), ("metrics", 5), ("validation", 5), ("publish", 5)]
)
def test_a_full_disk_is_a_storage_error_and_the_call_resumes(
    tmp_path: Path, straight: PolicyResult, monkeypatch: pytest.MonkeyPatch, place: str, step: int
) -> None:
    go = partial(train, tmp_path, validate=judge, kl_target=0.1)

    def fill() -> None:
        match place:
            case "checkpoint":
                monkeypatch.setattr(torch, "save", full)
            case "best":
                monkeypatch.setattr(FeatureTrainer, "save_weights", full)
            case "metrics" | "validation":
                (tmp_path / f"{place}.jsonl").unlink(missing_ok=True)
                (tmp_path / f"{place}.jsonl").mkdir()
            case _:
                monkeypatch.setattr(grpo, "link_or_copy", full)

    with pytest.raises(StorageError, match=r"No space left|Is a directory"):
        go(progress=stop_at(step, fill))
    assert not (tmp_path / "done.json").exists()
    if place in ("metrics", "validation"):
        (tmp_path / f"{place}.jsonl").rmdir()
        return
    monkeypatch.undo()
    assert_same_run(go(), straight)


EXPLORED = ("Mira lives in Oslo. It is 5.", "It is 5.", "Be brief.", "Arr. It is 5.")
"""Answers of a group: the first two are left as they are, and the fourth does not end."""


def scripted_answers(monkeypatch: pytest.MonkeyPatch, texts: Sequence[str]) -> list[list[int]]:
    """Let every group give these answers, of which the last does not end; the first two groups' tokens."""
    made = tokenizer()
    group = [[*made.encode(text), 1] for text in texts]
    group[-1].pop()

    def answers(self: object, prompt_ids: Sequence[object], *_: object) -> tuple[list[list[int]], None]:
        return [list(group[place % len(group)]) for place in range(len(prompt_ids))], None

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", answers)
    return [list(ids) for ids in (*group, *group)]


def after_sentences(_prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[tuple[int, int]]]:
    return [[(place + 1, place + 1) for place, symbol in enumerate(answer) if symbol == "."] for answer in answers]


def real(batch: Mapping[str, torch.Tensor]) -> list[list[int]]:
    """Tokens of the answers of a batch, without padding."""
    pairs = zip(batch["completion_ids"], batch["completion_mask"], strict=True)
    return [[int(token) for token in ids[mask.bool()]] for ids, mask in pairs]


def test_words_are_tried_where_they_are_told_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = scripted_answers(monkeypatch, [EXPLORED[place] for place in (2, 1, 0, 3)])
    asked: list[tuple[Sequence[Prompt], Sequence[str]]] = []

    def explore(prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[tuple[int, int]]]:
        asked.append((prompts, answers))
        torch.rand(3)
        return after_sentences(prompts, answers)

    batches, reward = Batches(), Letters()
    go = partial(train, max_steps=1, max_completion_length=60, explore_share=0.75, make=batches)
    go(tmp_path / "new", explore_words="Arr, Mira.", explore=explore, reward=reward)
    (batch,) = batches.seen
    words = words_after(tokenizer(), " Arr, Mira.")
    for place, (before, after) in enumerate(zip(given, real(batch), strict=True)):
        if place % 4 == 0:
            assert after == before
            continue
        expected: list[int] = []
        for token in before:
            expected += [token, *(words if tokenizer().decode([token]).endswith(".") else [])]
        assert after == expected
    ((prompts, answers, ended, _),) = reward.calls
    assert answers[:4] == [
        "Be brief.",
        "It is 5. Arr, Mira.",
        "Mira lives in Oslo. Arr, Mira. It is 5. Arr, Mira.",
        "Arr. Arr, Mira. It is 5. Arr, Mira.",
    ]
    assert ended[:4] == [True, True, True, False]
    (told,) = asked
    assert told == ([prompts[place] for place in (1, 2, 3, 5, 6, 7)], [EXPLORED[n] for n in (1, 0, 3)] * 2)


def test_an_answer_that_would_be_too_long_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = scripted_answers(monkeypatch, EXPLORED)
    words = words_after(tokenizer(), " Arr.")
    longest = max(len(given[0]), len(given[1]) + len(words), len(given[2]) + len(words))
    limited = {"max_completion_length": longest, "explore_share": 1.0, "explore_words": "Arr."}
    batches = Batches()
    train(tmp_path, max_steps=1, explore=after_sentences, make=batches, **limited)
    found = real(batches.seen[0])
    assert len(given[0]) <= longest < len(given[0]) + 2 * len(words)
    assert found[0] == given[0]
    assert found[1] == [*given[1][:-1], *words, 1]
    assert found[2] == [*given[2][:-1], *words, 1]


def test_anchors_are_not_explored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_answers(monkeypatch, [EXPLORED[0]] * 4)
    anchored = [ANCHOR if place % 2 else 1.0 for place in range(len(PROMPTS))]
    reward = Letters()
    settings = {"max_completion_length": 60, "explore_share": 1.0, "explore_words": "Arr."}
    train(tmp_path, max_steps=3, wanted=anchored, reward=reward, explore=after_sentences, **settings)
    turned = {
        (wants == ANCHOR, "Arr." in answer)
        for _, answers, _, wanted in reward.calls
        for wants, answer in zip(wanted, answers, strict=True)
    }
    assert turned == {(True, False), (False, True)}


@dataclass
class Doubts(Letters):
    """Every answer says "Oslo", and hedges that right after it, or not."""

    def score(self, answer: str) -> Scored:
        end = answer.index("Oslo.") + 5
        hedge = (end + 1, end + 5) if answer[end:].startswith(" Arr.") else None
        plain = Credit(start=0, end=end, value=0.5, chosen=(end, end + 1), won=0.4)
        credit = plain if hedge is None else Credit(start=0, end=end, value=0.1, said=0.5, chosen=hedge, won=-0.4)
        return Scored(answer=0.0, credits=(credit,))


@pytest.mark.parametrize("explored", [False, True])
def test_the_choice_to_hedge_is_free_of_the_kl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, explored: bool) -> None:
    """Where a hedge begins, and what was put where one was; not what follows on a plain claim."""
    texts = ["Mira lives in Oslo.", "Mira lives in Oslo. Arr.", "Mira lives in Oslo. It is 5."]
    given = scripted_answers(monkeypatch, [*texts, texts[1]])

    def unhedged(_prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[tuple[int, int]]]:
        return [[(20, 24)] if "Arr." in answer else [] for answer in answers]

    kept: list[dict[str, torch.Tensor]] = []
    original = FeatureTrainer._pay_tokens

    def keep(self: FeatureTrainer, batch: dict[str, torch.Tensor]) -> None:
        before = batch["ref_per_token_logps"].clone()
        batch["ref_per_token_logps"] += 1.0
        original(self, batch)
        kept.append({**{name: value.clone() for name, value in batch.items()}, "reference": before})

    monkeypatch.setattr(FeatureTrainer, "_pay_tokens", keep)
    settings = {"max_completion_length": 40, "explore_words": "Arr.", "explore_share": 1.0 if explored else 0.0}
    train(tmp_path, max_steps=1, beta=0.1, reward=Doubts(), explore=unhedged, **settings)
    (batch,) = kept
    own = log_probabilities(host(), batch)
    claim, hedge = (len(tokenizer().encode(text)) for text in (texts[0], "Mira lives in Oslo. "))
    expected = [[], [claim], [], []] if explored else [[], [hedge], [], [hedge]]
    assert explored or given[1][hedge:] == [*tokenizer().encode("Arr."), 1]
    for place, ids in enumerate(real(batch)):
        lower = batch["ref_per_token_logps"][place] < batch["reference"][place] + 0.5
        free = [at for at in range(len(ids)) if lower[at]]
        assert free == expected[place % 4]
        for at in free:
            assert batch["ref_per_token_logps"][place, at].item() == pytest.approx(own[place, at].item(), abs=1e-4)


@pytest.mark.parametrize("steps_per_generation", [1, 2])
def test_what_lost_in_explored_answers_weighs_as_much_as_it_is_likely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps_per_generation: int
) -> None:
    scripted_answers(monkeypatch, EXPLORED)
    kept: list[dict[str, torch.Tensor]] = []
    original = FeatureTrainer._generate_and_score_completions

    def keep(self: FeatureTrainer, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch = original(self, inputs)
        kept.append({name: value.clone() for name, value in batch.items()})
        return batch

    monkeypatch.setattr(FeatureTrainer, "_generate_and_score_completions", keep)
    reward, size = Letters(), {"steps_per_generation": steps_per_generation, "max_completion_length": 40}
    train(tmp_path, reward=reward, max_steps=1, explore_words="Arr!", explore=after_sentences, **size)
    (batch,) = kept
    assert ("old_per_token_logps" in batch) == (steps_per_generation > 1)
    ids = real(batch)
    rows = dense_advantages(
        [Letters().score(answer) for answer in reward.calls[0][1]],
        [token_spans(tokenizer(), row) for row in ids],
        group=4,
    )
    chances = log_probabilities(host(), batch).exp()
    hedge, below = words_after(tokenizer(), " Arr!"), [0, 0]
    for place, (row, tokens) in enumerate(zip(rows, ids, strict=True)):
        put = {
            at
            for start in range(len(tokens))
            if place % 4 >= 2 and tokens[start : start + len(hedge)] == hedge
            for at in range(start, start + len(hedge))
        }
        expected = [
            value * float(chance) if at in put and value < 0 else value
            for at, (value, chance) in enumerate(zip(row, chances[place], strict=False))
        ]
        for at, value in enumerate(row):
            below[at in put] += value < 0
        assert batch["advantages"][place, : len(row)].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert min(below) > 0


def test_every_prompt_is_asked_as_often_as_any_other_and_comes_with_its_claims(tmp_path: Path) -> None:
    reward = Letters()
    train(tmp_path, reward=reward, max_steps=3)
    asked = [prompt[0]["content"] for prompts, *_ in reward.calls for prompt in prompts]
    assert {text: asked.count(text) for text in asked} == {prompt[0]["content"]: 8 for prompt in PROMPTS}
    for prompts, _, ended, wanted in reward.calls:
        assert wanted == [WANTED[PROMPTS.index(prompt)] for prompt in prompts]
        assert len({tuple(turns) for turns in map(str, prompts[:4])}) == 1
        assert len(ended) == 8


@pytest.mark.parametrize("changed", [{"bf16": True}, {"gradient_checkpointing": True, "method": "lora"}])
def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str], changed: dict[str, Any]) -> None:
    train(tmp_path, validate=judge, max_steps=2, **changed)
    assert capfd.readouterr() == ("", "")


def test_only_the_later_layers_learn(tmp_path: Path) -> None:
    before = host().model
    result = train(tmp_path, freeze_layers=1, max_steps=2)
    after = load_student(host(), result.folder).model
    changed = {
        name
        for (name, old), (_, new) in zip(before.named_parameters(), after.named_parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert changed
    assert all(".layers." in name and ".layers.0." not in name for name in changed)
