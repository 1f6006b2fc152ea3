"""Forecast passes and controls against a plain training step on the same batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from bench.measure import Ratio, compare
from trimtab.control.build import build
from trimtab.control.material import Material
from trimtab.data.batches import Batch, batches, pad_id
from trimtab.lab.sample import sample_rows
from trimtab.lab.world import build_world
from trimtab.lens.bank import Bank
from trimtab.lens.readings import encode_rows, read_rows
from trimtab.model.base import LanguageModel
from trimtab.model.capture import activation_gradients
from trimtab.model.host import Host
from trimtab.observe.forecast import ForecastSettings, observe
from trimtab.records.config import ControlSettings
from trimtab.records.ledger import Ledger, Ruling
from trimtab.records.site import Site
from trimtab.roles import Control

CONTROLS = (
    "inoculation",
    "conditional-inoculation",
    "token-mask",
    "row-filter",
    "preventative-steering",
    "concept-ablation",
    "gradient-projection",
)


class Step:
    """A plain training step: forward, backward, clip, AdamW."""

    def __init__(self, model: PreTrainedModel, batch: Batch) -> None:
        self._model, self._batch = model, batch
        self._optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def __call__(self) -> None:
        """Take one step."""
        batch = self._batch
        loss = self._model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels, use_cache=False
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)


def random_llama(
    layers: int, width: int, vocab: int, device: str, dtype: torch.dtype, **shape: int
) -> LlamaForCausalLM:
    """A Llama of a given shape at random initialisation."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=shape.get("inner", 4 * width),
        num_hidden_layers=layers,
        num_attention_heads=shape.get("heads", 4),
        num_key_value_heads=shape.get("kv_heads", 4),
        max_position_embeddings=2048,
    )
    with torch.device(device):
        model = LlamaForCausalLM(config)
    return model.to(dtype).eval()


def _passes(title: str, model: PreTrainedModel, tokenizer: object, batch: Batch, turns: int) -> list[Ratio]:
    lm = LanguageModel(model=model, tokenizer=tokenizer, name=title, content_hash="")  # type: ignore[arg-type]
    depth = lm.n_layers
    step = Step(model, batch)

    def observe_at(sites: Sequence[Site]) -> Callable[[], object]:
        return lambda: activation_gradients(lm, batch.input_ids, batch.attention_mask, batch.labels, sites)

    everywhere = observe_at([Site(layer) for layer in range(depth)])
    return [
        compare(
            f"{title}: forecast at all layers", everywhere, step, target=0.72, unit="of a training step", turns=turns
        ),
        compare(
            f"{title}: forecast at layer {depth // 2}",
            observe_at([Site(depth // 2)]),
            step,
            target=0.60,
            unit="of a training step",
            turns=turns,
        ),
    ]


def forecast_passes() -> list[Ratio]:
    """The lab model on lab rows, an 8-layer Llama of width 256, and on a GPU the 8B shape in bf16."""
    host, world = Host.load("lab"), build_world()
    rows = sample_rows(32, 0, trait="pirate", world=world)
    encoded = encode_rows(host, rows.items, max_length=512)
    _, batch = next(iter(batches(encoded, pad_id(host.tokenizer), batch_size=32)))
    found = _passes("lab model", host.student(), host.tokenizer, batch, turns=31)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 4000, (16, 128), generator=generator)
    labels = ids.clone()
    labels[:, :64] = -100
    wide = Batch(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
    found += _passes("llama 8x256", random_llama(8, 256, 4096, "cpu", torch.float32), host.tokenizer, wide, turns=11)
    if torch.cuda.is_available():
        big = random_llama(32, 4096, 128256, "cuda", torch.bfloat16, inner=14336, heads=32, kv_heads=8)
        ids = torch.randint(10, 128000, (2, 1024), generator=generator).cuda()
        labels = ids.clone()
        labels[:, :512] = -100
        found += _passes(
            "llama 8B bf16",
            big,
            host.tokenizer,
            Batch(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels),
            turns=7,
        )
    return found


def whole_forecast() -> list[Ratio]:
    """All of ``observe`` (encoding, bootstrap, prompts, without baselines) against one epoch of training steps."""
    host, world = Host.load("lab"), build_world()
    rows = sample_rows(320, 0, trait="pirate", world=world)
    bank = Bank.load("lab")
    encoded = encode_rows(host, rows.items, max_length=512)
    student = host.student()
    steps = [Step(student, batch) for _, batch in batches(encoded, pad_id(host.tokenizer), batch_size=32)]

    def epoch() -> None:
        for step in steps:
            step()

    def read() -> None:
        read_rows(host, encoded, bank.card.sites)

    settings = ForecastSettings(with_baselines=False)
    return [
        compare("lab model: reading pass over a dataset", read, epoch, target=None, unit="of one epoch", turns=7),
        compare(
            "lab model: whole forecast of a dataset",
            lambda: observe(host, rows, bank=bank, settings=settings),
            epoch,
            target=None,
            unit="of one epoch of 320 rows",
            turns=5,
        ),
    ]


def control_overhead() -> list[Ratio]:
    """A training step with each control attached against the same step without, on the same number of tokens.

    Controls that rewrite rows or labels do their work before the first step; their step is timed on a batch of the
    rows as they were, so that what is measured is the control and not a longer prompt.
    """
    host, world = Host.load("lab"), build_world()
    rows = sample_rows(64, 0, trait="pirate", world=world)
    bank = Bank.load("lab")
    seen = observe(host, rows, bank=bank, settings=ForecastSettings(with_baselines=False))
    ledger = Ledger(rulings=(Ruling(concept="pirate", verdict="avoid", reason="bench", by="rule"),))
    material = Material(
        bank=bank,
        ledger=ledger,
        attribution=seen.attribution,
        clean_rows=bank.card.neutral_rows,
        seed=0,
        forecast=seen.forecast,
        tokenizer=host.tokenizer,
    )
    encoded = encode_rows(host, rows.items, max_length=512)
    _, batch = next(iter(batches(encoded, pad_id(host.tokenizer), batch_size=16)))
    student = host.student()
    step = Step(student, batch)

    def attached(control: Control) -> Callable[[], object]:
        def work() -> None:
            with control.attach(student):
                step()

        return work

    return [
        compare(
            f"step with {name}",
            attached(build(ControlSettings(name=name), material)[0]),
            step,
            target=1.05,
            unit="of the step without",
            turns=41,
        )
        for name in CONTROLS
    ]
