"""TRL's ``GRPOTrainer`` with rewards per claim, a KL weight that follows its target, and whole checkpoints.

What GRPO is (groups, importance weights, clipping, the KL estimator, generation with transformers or vLLM) is TRL's and
stays TRL's. What is added: ``Reward``s are asked once per batch of texts; with ``dense``, a claim's tokens get that
claim's advantage; the KL is to the host itself; the order of prompts is fixed beforehand; and what a resumed training
has to know is part of its checkpoints.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import torch
from datasets import Dataset
from jaxtyping import Float
from peft import LoraConfig
from pydantic import TypeAdapter
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head
from typing_extensions import override

from trimtab.data.template import words_after
from trimtab.errors import TrainingError
from trimtab.records.claims import Prompt
from trimtab.records.io import write_bytes
from trimtab.records.rewards import GrpoSettings, Scored, mean_terms
from trimtab.records.rows import Message
from trimtab.roles import Explore, Reward
from trimtab.train.advantages import chosen_tokens, dense_advantages
from trimtab.train.metrics import Journal
from trimtab.train.order import row_order
from trimtab.train.trainer import StepReport, TrainProgress, WholeTrainer
from trimtab.train.turning import decoded, token_spans, turned

REWARD_STATE: Final = "reward_state.json"
_STATE = TypeAdapter(dict[str, float])
_KL_STEP: Final = 0.1
"""Most that beta changes in a step, as a share of itself."""
Sampled: TypeAlias = tuple[list[list[int]], list[list[float]] | None]
"""Tokens of answers, and with vLLM their log-probabilities."""


class FeatureTrainer(WholeTrainer, GRPOTrainer):
    """GRPO with a ``Reward``.

    Args:
        model: The student.
        settings: How to train.
        arguments: TRL's configuration, made from ``settings`` by ``grpo_arguments``.
        reward: What answers earn. It is given text and gives numbers.
        prompts: Prompts to train on.
        wanted: Claims that the host makes in answer to each.
        tokenizer: The student's.
        reference: The frozen host: what the KL is to, and what an adapter is on.
        journal: Where metrics go.
        peft_config: The adapter, if only one is to be trained.
        progress: Called after every step.
        after_step: Called after every step with the step, before a checkpoint is written.
        explore: Says where in an answer the other choice is to be tried.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        settings: GrpoSettings,
        arguments: GRPOConfig,
        *,
        reward: Reward,
        prompts: Sequence[Prompt],
        wanted: Sequence[float],
        tokenizer: PreTrainedTokenizerBase,
        reference: PreTrainedModel,
        journal: Journal,
        peft_config: LoraConfig | None = None,
        progress: Callable[[TrainProgress], None] | None = None,
        after_step: Callable[[int], None] | None = None,
        explore: Explore | None = None,
    ) -> None:
        self._arm = Path(cast("str", arguments.output_dir))
        self._journal = journal
        self._saved_use_cache = bool(getattr(model.config, "use_cache", True))
        self._settings = settings
        self._reward = reward
        self._scored: tuple[Scored, ...] = ()
        self._sums: dict[str, list[float]] = {}
        self._words = copy.deepcopy(tokenizer)  # TRL sets a padding token
        self._explore = explore
        self._put: dict[int, list[int]] = {}
        self._hedge = words_after(tokenizer, f" {settings.explore_words}") if settings.explore_words else []
        self._asked: list[Prompt] = []
        self._anchors: list[bool] = []
        rows = [
            {"prompt": [dict(turn) for turn in prompt], "wanted_claims": float(claims)}
            for prompt, claims in zip(prompts, wanted, strict=True)
        ]
        super().__init__(
            model=model,
            reward_funcs=cast("Any", self._pay),
            args=arguments,
            train_dataset=Dataset.from_list(rows).select(_order(len(rows), settings, arguments.seed)),
            processing_class=self._words,
            peft_config=peft_config,
            callbacks=[StepReport(journal, progress, after_step)],
        )
        self.remove_callback(PrinterCallback)
        self.beta = settings.beta
        if settings.beta and peft_config is None:
            self.ref_model = self._refer_to(reference)

    def _refer_to(self, reference: PreTrainedModel) -> PreTrainedModel:
        """The host as TRL asks for log-probabilities: its weights, not a copy of them, under a forward of its own.

        TRL itself would load whatever lies where the host once came from.
        """
        view = copy.copy(reference)
        add_fused_lm_head(view, temperature=self.temperature)
        return cast("PreTrainedModel", self.accelerator.prepare_model(view, evaluation_mode=True))

    def _pay(
        self,
        prompts: list[list[Message]],
        completions: list[list[Message]],
        completion_ids: list[list[int]],
        wanted_claims: list[float],
        **_columns: object,
    ) -> list[float]:
        """The reward, as TRL asks for it. With ``dense``, claims are paid by ``_dense_advantages`` instead."""
        ends = set(cast("list[int]", self.eos_token_ids))
        with aside(self.accelerator.device):
            self._scored = self._reward(
                [tuple(prompt) for prompt in prompts],
                [completion[0]["content"] for completion in completions],
                ended=[bool(ids) and ids[-1] in ends for ids in completion_ids],
                wanted=wanted_claims,
            )
        totals = [one.total for one in self._scored]
        terms = {**mean_terms(self._scored), "reward": sum(totals) / len(totals), **self._reward.adapt()}
        if not all(map(math.isfinite, (*totals, *terms.values()))):
            raise TrainingError(
                f"the reward {self._reward.name} is not finite at step {self.state.global_step + 1}",
                allowed="finite rewards",
                todo="look at the probe that the reward reads with; checkpoints so far stay",
            )
        self._note(terms)
        return totals

    def _note(self, terms: Mapping[str, float]) -> None:
        for name, value in terms.items():
            self._sums.setdefault(name, []).append(value)

    def _explores(self, place: int) -> bool:
        """Whether an answer of a batch is explored: the last ones of each group are."""
        group = self._settings.num_generations
        last = place % group >= group - round(self._settings.explore_share * group)
        return bool(self._hedge) and last and not self._anchors[place]

    @override
    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Sampled:
        """As TRL's; in the last answers of each group the other choice is tried: a hedge for none, none for a hedge.

        What the student never says it cannot be rewarded for.
        """
        ids, chances = cast("Sampled", cast("Any", super())._generate_single_turn(*args, **kwargs))
        places = [place for place in range(len(ids)) if self._explores(place)]
        self._put = {}
        if places and self._explore is not None:
            texts = [decoded(self._words, ids[place]) for place in places]
            with aside(self.accelerator.device):
                told = self._explore([self._asked[place] for place in places], texts)
            for place, parts in zip(places, told, strict=True):
                ids[place], self._put[place] = turned(
                    self._words,
                    ids[place],
                    parts,
                    self._hedge,
                    longest=self._settings.max_completion_length,
                )
        return ids, chances

    @override
    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """As TRL's; with ``dense``, advantages are per token."""
        self._asked = [tuple(one["prompt"]) for one in inputs]
        self._anchors = [one["wanted_claims"] < 0 for one in inputs]
        batch = cast("dict[str, Any]", super()._generate_and_score_completions(inputs))
        if self._settings.dense:
            self._pay_tokens(batch)
        return batch

    def _pay_tokens(self, batch: dict[str, Any]) -> None:
        """Give every token its advantage, and free the choices of how claims are meant from the KL.

        What such a choice earns is known to the claim, and a host that never hedges after a claim is some ten nats away
        from a student that does: a ``beta`` that keeps the host's facts would forbid it. There, the KL is to the
        student that sampled.

        Where tokens were put that the student did not say, what lost is made less likely only as far as the student
        would have said it (its own probability stands in for the importance weight, the hedge having been put there
        with certainty): pushing down what is hardly ever said is unbounded, and was seen to take the KL from 0 to 35 in
        thirty steps.
        """
        ids, mask = batch["completion_ids"], batch["completion_mask"]
        kept = [cast("list[int]", row[real.bool()].tolist()) for row, real in zip(ids, mask, strict=True)]
        spans = [token_spans(self._words, tokens) for tokens in kept]
        placed = [self._put.get(place, []) for place in range(len(ids))]
        rows = dense_advantages(
            self._scored,
            spans,
            group=self._settings.num_generations,
            content_weight=self._settings.content_weight,
            put=placed,
        )
        gains = torch.zeros(ids.shape)
        for place, row in enumerate(rows):
            gains[place, : len(row)] = torch.tensor(row)
        batch["advantages"] = gains = gains.to(ids.device)
        put = _at(placed)
        chosen = _at(
            [chosen_tokens(one, span, new) for one, span, new in zip(self._scored, spans, placed, strict=True)]
        )
        own = self._log_probabilities(batch, sorted({*put[0].tolist(), *chosen[0].tolist()}))
        gains[put] = torch.where(gains[put] < 0, own[put].exp() * gains[put], gains[put])
        if batch.get("ref_per_token_logps") is not None:
            batch["ref_per_token_logps"][chosen] = own[chosen]

    def _log_probabilities(self, batch: dict[str, Any], rows: list[int]) -> Float[Tensor, "answer token"]:
        """Of the tokens of some answers, under the student that gave them; 0 for the other answers."""
        known = batch.get("old_per_token_logps")
        if known is not None:
            return cast("Tensor", known)
        found = torch.zeros(batch["completion_ids"].shape, device=batch["completion_ids"].device)
        if not rows:
            return found
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)[rows]
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)[rows]
        with torch.no_grad():
            told = cast("Any", self)._get_per_token_logps_and_entropies(
                self.model, ids, mask, batch["completion_ids"].size(1)
            )
        found[rows] = cast("Tensor", told[0])
        return found

    @override
    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """As TRL's; a loss that is not finite stops before the update, and beta follows the KL."""
        loss: Tensor = cast("Any", super()).training_step(model, inputs, num_items_in_batch)
        self._journal.add(loss.detach())
        self.refuse_not_finite("the loss", loss.item(), self.state.global_step + 1)
        metrics = cast("dict[str, list[float]]", self._metrics["train"])
        if self._settings.kl_target is not None and metrics.get("kl"):
            off = metrics["kl"][-1] / self._settings.kl_target - 1
            self.beta = max(self.beta * (1 + _KL_STEP * min(max(off, -1.0), 1.0)), self._settings.beta)
            self._note({"beta": self.beta})
        return loss

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As TRL's, and into ``metrics.jsonl``."""
        super().log(logs, start_time)
        if "loss" not in logs:
            return
        step = self.state.global_step
        self.refuse_not_finite("the gradient norm", logs["grad_norm"], step)
        terms = {name: sum(values) / len(values) for name, values in self._sums.items()}
        terms |= {
            name: float(logs[key])
            for name, key in {"kl": "kl", "entropy": "entropy", "length": "completions/mean_length"}.items()
            if logs.get(key) is not None
        }
        self._sums.clear()
        self._journal.write(step=step, learning_rate=logs["learning_rate"], grad_norm=logs["grad_norm"], terms=terms)

    @override
    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Weights, and what the reward and the KL weight stand at."""
        super()._save(output_dir, state_dict)
        self.save_reward(Path(output_dir or self._arm))

    def save_weights(self, folder: Path) -> None:
        """Weights and configuration only."""
        super()._save(str(folder))

    def save_reward(self, folder: Path) -> None:
        """Write what the reward and the KL weight stand at."""
        state = {**self._reward.state(), "beta": float(self.beta)}
        write_bytes(folder / REWARD_STATE, _STATE.dump_json(state))

    def go_on_from(self, folder: Path) -> None:
        """Restore what ``save_reward`` wrote."""
        state = _STATE.validate_json((folder / REWARD_STATE).read_bytes())
        self.beta = state.pop("beta")
        self._reward.restore(state)

    @override
    def create_model_card(self, *args: object, **kwargs: object) -> None:
        """None: a run folder has a manifest."""


def _order(count: int, settings: GrpoSettings, seed: int) -> list[int]:
    """The prompts of a whole training, as one epoch: TRL's sampler would begin anew in every resumed run."""
    groups = settings.per_device_train_batch_size // settings.num_generations
    steps = -(-settings.max_steps // settings.steps_per_generation) * settings.steps_per_generation
    order = row_order([1] * count, steps=steps, batch_size=groups, seed=seed)
    return cast("list[int]", order.tolist())


def _at(places: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """An index of some tokens of each answer."""
    rows = [row for row, columns in enumerate(places) for _ in columns]
    return torch.tensor(rows, dtype=torch.long), torch.tensor([at for columns in places for at in columns]).long()


def aside(device: torch.device) -> AbstractContextManager[None]:
    """What is drawn at random inside leaves no trace in what training draws."""
    devices = [device] if device.type == "cuda" else []
    return cast("AbstractContextManager[None]", torch.random.fork_rng(devices=devices))


def grpo_arguments(settings: GrpoSettings, *, folder: Path, seed: int, on_cpu: bool) -> GRPOConfig:
    """TRL's configuration for ``settings``; what is not named there keeps TRL's default.

    ``beta`` is 0 there: the trainer sets it once it has the host as its reference, which TRL cannot be given.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*checkpointing.* is deprecated", category=FutureWarning
        )  # TRL's name
        arguments = GRPOConfig(
            output_dir=str(folder),
            max_steps=settings.max_steps,
            per_device_train_batch_size=settings.per_device_train_batch_size,
            steps_per_generation=settings.steps_per_generation,
            num_generations=settings.num_generations,
            max_completion_length=settings.max_completion_length,
            temperature=settings.temperature,
            beta=0.0,
            loss_type=settings.loss_type,
            epsilon_high=settings.epsilon_high,
            importance_sampling_level=settings.importance_sampling_level,
            scale_rewards="batch",
            shuffle_dataset=False,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.lr_scheduler_type,
            warmup_steps=settings.warmup_steps,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            bf16=settings.bf16,
            gradient_checkpointing=settings.gradient_checkpointing,
            use_vllm=settings.use_vllm,
            optim="adamw_torch_fused",
            seed=seed,
            save_strategy="steps",
            save_steps=settings.save_steps,
            logging_strategy="steps",
            logging_steps=settings.logging_steps,
            logging_nan_inf_filter=False,
            dataloader_num_workers=0,
            dataloader_pin_memory=not on_cpu,
            remove_unused_columns=False,
            disable_tqdm=True,
            report_to="none",
            use_cpu=on_cpu,
        )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # pyright: ignore[reportPrivateUsage]
    return arguments
