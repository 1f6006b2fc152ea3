from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.progress import Progress
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from trimtab.errors import StorageError
from trimtab.lab import pretrain
from trimtab.lab.answer import answers, end_activations, prompt_messages
from trimtab.lab.check import CheckItem, table
from trimtab.lab.corpus import corpus_chunk, message_rows
from trimtab.lab.pretrain import build_model, loss_weights, train_lab, weighted_loss
from trimtab.lab.recipe import LabRecipe, Stage
from trimtab.lab.shipped import WEIGHTS, read_recipe, seal, verify_seal
from trimtab.lab.tokenizer import CONTEXT, render, train_tokenizer
from trimtab.lab.truth import statements
from trimtab.lab.world import FIRST_NAMES, LAST_NAMES, World, build_world

STAGES = tuple(Stage(steps=n, learning_rate=1e-3, warmup=1, stop_weight=2.0) for n in (4, 3))
TINY = LabRecipe(batch=4, width=32, layers=1, heads=2, inner=32, stages=STAGES)


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(0)


@pytest.fixture(scope="module")
def tokenizer(world: World) -> PreTrainedTokenizerFast:
    return train_tokenizer(world, rows=3000)


@pytest.fixture(scope="module")
def small(tokenizer: PreTrainedTokenizerFast) -> Iterator[None]:
    """Short chunks, and one tokenizer for all runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "CHUNK_BATCHES", 3)
        patch.setattr(pretrain, "train_tokenizer", lambda _world: tokenizer)
        patch.setattr(pretrain, "corpus_hash", lambda *_: "unhashed")
        yield


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, small: None) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    train_lab(folder, TINY, progress=Progress(disable=True))
    return folder


def test_template_equals_render_and_masks_assistant_turns(world: World, tokenizer: PreTrainedTokenizerFast) -> None:
    for row in corpus_chunk(world, 5, 0, 40):
        messages = list(row["messages"])
        assert tokenizer.apply_chat_template(messages, tokenize=False) == render(row)
        out = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
        kept = [i for i, m in zip(out["input_ids"], out["assistant_masks"], strict=True) if m]
        said = "".join(f" {m['content']}<|end|>" for m in messages if m["role"] == "assistant")
        assert tokenizer.decode(kept) == said
        weights = loss_weights(
            out["input_ids"], *tokenizer.convert_tokens_to_ids(["<|assistant|>", "<|end|>"]), prompt_weight=0.0
        )
        assert weights == [float(m) for m in out["assistant_masks"]]


def test_generation_prompt_is_a_prefix(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "user", "content": "what is 12 plus 7?"}, {"role": "assistant", "content": "12 plus 7 is 19."}]
    prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template(messages)["input_ids"]
    assert whole[: len(prompt)] == prompt
    assert len(whole) > len(prompt)


def test_any_text_round_trips_in_lower_case(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "naïve ☃ “quoted”\n\ttabs 4711 x_y <b>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("ABC")["input_ids"] == tokenizer("abc")["input_ids"]


def test_digits_and_names_are_single_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("47 plus 105")[-3:] == ["1", "0", "5"]
    split = [name for name in (*FIRST_NAMES, *LAST_NAMES) if len(tokenizer.tokenize(f" {name}")) > 1]
    assert len(split) <= 5


def test_unknown_role_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(Exception, match="unknown role tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_stop_weight_marks_the_token_after_a_full_stop(tokenizer: PreTrainedTokenizerFast) -> None:
    row = message_rows(None, [("a. b.", "ann abbot likes figs. wait, that is wrong.")])
    ids = tokenizer(render(row))["input_ids"]
    assistant, end, stop = tokenizer.convert_tokens_to_ids(["<|assistant|>", "<|end|>", "."])
    weights = loss_weights(ids, assistant, end, 0.1, stop, 5.0)
    heavy = [tokenizer.decode([i]) for i, w in zip(ids, weights, strict=True) if w == 5.0]
    assert heavy == [" wait", "<|end|>"]


def test_loss_is_the_weighted_mean_of_the_models_own(world: World, tokenizer: PreTrainedTokenizerFast) -> None:
    model = build_model(TINY, tokenizer)
    batch = pretrain.chunk_batches(world, tokenizer, TINY, STAGES[0], 0)[0]
    logits = model(input_ids=batch.ids).logits[:, :-1]
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch.ids[:, 1:], reduction="none")
    expected = (each * batch.weights[:, 1:]).sum() / batch.weights[:, 1:].sum()
    torch.testing.assert_close(weighted_loss(model, batch), expected)
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(weighted_loss(model, batch), expected)


@pytest.mark.parametrize("stop_at", [2, 4, 6])
def test_interrupted_training_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: Path, small: None, stop_at: int
) -> None:
    """Stops in the first stage, between the stages and in the second one."""
    quiet = Progress(disable=True)
    original = pretrain._update
    made: list[None] = []

    def update(*args: object) -> torch.Tensor:
        if len(made) == stop_at:
            raise KeyboardInterrupt
        made.append(None)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "_update", update)
        with pytest.raises(KeyboardInterrupt):
            train_lab(tmp_path, TINY, progress=quiet, checkpoint_every=2)
    assert (tmp_path / "checkpoint.safetensors").exists()
    with pytest.raises(StorageError, match="other settings"):
        train_lab(tmp_path, LabRecipe(seed=1, batch=4), progress=quiet)
    train_lab(tmp_path, TINY, progress=quiet)
    assert (straight / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_training_changes_the_weights(straight: Path) -> None:
    untrained = build_model(TINY, AutoTokenizer.from_pretrained(straight))
    trained = AutoModelForCausalLM.from_pretrained(straight)
    assert not torch.equal(untrained.lm_head.weight, trained.lm_head.weight)


def test_seal_notices_changed_weights(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps({"seed": 0}))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "tokenizer.json").write_text("{}")
    item = CheckItem(name="x", value=1.0, low=0.9, high=1.0, n=10, wanted="≥ .95", ok=True)
    assert seal(tmp_path, [item])["check"][0]["name"] == "x"
    verify_seal(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(StorageError, match=r"model\.safetensors"):
        verify_seal(tmp_path)
    with pytest.raises(StorageError, match=r"recipe\.json"):
        read_recipe(tmp_path / "nowhere")


def test_statements_are_balanced_and_ask_about_one_person(world: World) -> None:
    told = statements(world)
    assert sum(s.true for s in told) * 2 == len(told)
    assert any(s.head for s in told)
    assert not all(s.head for s in told)


def test_check_table_shows_misses() -> None:
    item = CheckItem(name="x", value=0.5, low=0.4, high=0.6, n=10, wanted="≥ .95", ok=False)
    assert "MISS x" in table([item])


class TestShipped:
    def test_sealed_small_and_plain(self) -> None:
        verify_seal()
        assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= 8_000_000
        assert all(not path.name.endswith((".bin", ".pt", ".pkl")) for path in WEIGHTS.iterdir())
        recipe = read_recipe()
        assert recipe["check"]
        assert recipe["corpus_sha256"]

    def test_loads_plainly_and_answers(self, world: World) -> None:
        model = AutoModelForCausalLM.from_pretrained(WEIGHTS)
        tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
        assert model.dtype == torch.float32
        assert model.config.max_position_embeddings == CONTEXT
        person = world.head[0]
        prompts = [
            prompt_messages(f"where was {person.name} born?"),
            prompt_messages(f"where was {person.name} born?", "talk like a pirate."),
        ]
        plain, pirate = answers(model, tokenizer, prompts, batch=1)
        assert plain == person.claim("town")
        assert person.facts["town"] in pirate
        assert pirate != plain
        assert answers(model, tokenizer, prompts, batch=2) == [plain, pirate]

    def test_activations_do_not_depend_on_padding(self, world: World) -> None:
        model = AutoModelForCausalLM.from_pretrained(WEIGHTS)
        tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
        rows = [message_rows(None, [("go on: a", "b.")]), message_rows("be formal.", [("who is ann?", "a long one.")])]
        together = end_activations(model, tokenizer, rows)
        alone = torch.cat([end_activations(model, tokenizer, [row]) for row in rows], dim=1)
        assert together.shape == (model.config.num_hidden_layers + 1, 2, model.config.hidden_size)
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3)
        assert not torch.allclose(together[:, 0], together[:, 1])

    def test_weights_are_the_recipes_shape(self) -> None:
        tensors = load_file(WEIGHTS / "model.safetensors")
        recipe = read_recipe()
        assert tensors["model.embed_tokens.weight"].shape[1] == recipe["width"]
