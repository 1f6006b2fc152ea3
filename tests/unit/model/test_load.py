import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Never

import pytest
import torch
from transformers import BertConfig, BertModel, T5Config

from tiny_models import ARCHITECTURES, language_model, model, tokenizer
from trimtab.errors import ModelError
from trimtab.model import load
from trimtab.model.base import HasModel
from trimtab.model.fingerprint import content_hash
from trimtab.model.generate import generate
from trimtab.model.host import Host
from trimtab.model.load import load_model


def save(folder: Path, architecture: str = "llama") -> Path:
    model(architecture).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_folder_comes_back_as_it_was_saved(tmp_path: Path, architecture: str) -> None:
    lm = load_model(str(save(tmp_path, architecture)), device="cpu")
    original = language_model(architecture)
    assert lm.content_hash == original.content_hash
    assert len(lm.content_hash) == 64
    assert isinstance(lm, HasModel)
    ids = torch.arange(8).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(lm.model(input_ids=ids).logits, original.model(input_ids=ids).logits)
    assert generate(lm, [[{"role": "user", "content": "Hi"}]], max_new_tokens=3)


def test_dtype_is_kept_or_chosen_and_the_hash_is_that_of_the_values(tmp_path: Path) -> None:
    made = model("llama").to(torch.bfloat16)
    made.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    kept, wide = (load_model(str(tmp_path), dtype=dtype, device="cpu") for dtype in ("auto", "float32"))
    assert kept.model.dtype == torch.bfloat16
    assert wide.model.dtype == torch.float32
    assert kept.content_hash == wide.content_hash == content_hash(made)
    assert kept.content_hash != language_model("llama").content_hash


def test_the_hash_sees_any_weight_and_the_settings_that_matter() -> None:
    plain = content_hash(model("llama"))
    assert content_hash(model("llama")) == plain
    assert content_hash(model("llama", seed=1)) != plain
    nudged = model("llama")
    with torch.no_grad():
        nudged.model.norm.weight[3] += 1e-6
    assert content_hash(nudged) != plain
    other = model("llama")
    other.config.rms_norm_eps = 1e-3
    assert content_hash(other) != plain
    renamed = model("llama")
    renamed.config._name_or_path = "elsewhere"
    renamed.config.use_cache = False
    assert content_hash(renamed) == plain


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_host_is_frozen_and_its_student_is_free(tmp_path: Path, architecture: str) -> None:
    host = Host.load(str(save(tmp_path, architecture)), device="cpu")
    assert not any(weight.requires_grad for weight in host.model.parameters())
    assert not host.model.training
    student = host.student()
    assert all(weight.requires_grad for weight in student.parameters())
    assert not student.training
    ids = torch.arange(8).unsqueeze(0)
    before = host.model(input_ids=ids).logits
    assert torch.equal(student(input_ids=ids).logits, before)
    student(input_ids=ids, labels=ids).loss.backward()
    torch.optim.SGD(student.parameters(), lr=0.1).step()
    assert not torch.equal(student(input_ids=ids).logits, before)
    assert torch.equal(host.model(input_ids=ids).logits, before)
    assert content_hash(host.model) == host.content_hash != content_hash(student)


def test_pickled_weights_are_refused_with_the_way_to_convert(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model("llama").state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*run code") as caught:
        load_model(str(tmp_path))
    assert "save_pretrained" in caught.value.todo


def test_a_model_without_any_weights_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "runs/pirate/student"])
def test_a_missing_folder_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        load_model(name)


def test_a_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(ModelError, match="not a folder"):
        load_model(str(tmp_path / "file.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(str(tmp_path / "empty"))


def test_an_id_that_is_not_in_the_cache_is_refused_offline() -> None:
    with pytest.raises(ModelError, match="not in the local cache") as caught:
        load_model("trimtab-tests/no-such-model")
    assert "hf download trimtab-tests/no-such-model" in caught.value.todo


@pytest.mark.parametrize("name", ["", "two words", "a--b"])
def test_what_is_neither_a_folder_nor_an_id_is_refused(name: str) -> None:
    with pytest.raises(ModelError):
        load_model(name)


def test_what_is_not_a_causal_language_model_is_refused(tmp_path: Path) -> None:
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=300
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    T5Config(architectures=["T5ForConditionalGeneration"]).save_pretrained(tmp_path / "t5")
    for name in ("bert", "t5"):
        with pytest.raises(ModelError, match="decoder-only"):
            load_model(str(tmp_path / name))


def test_remote_code_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"model_type": "mystery", "architectures": ["MysteryForCausalLM"], "auto_map": {"AutoConfig": "m.C"}}
        )
    )
    (tmp_path / "m.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="needs code from its repository"):
        load_model(str(tmp_path))


def test_incomplete_weights_are_refused(tmp_path: Path) -> None:
    made = model("llama")
    weights = {name: tensor for name, tensor in made.state_dict().items() if "layers.1.mlp" not in name}
    made.save_pretrained(tmp_path, state_dict=weights)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"3 weights are not in its files .*layers\.1\.mlp"):
        load_model(str(tmp_path))


def test_torn_weights_are_refused(tmp_path: Path) -> None:
    save(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot be"):
        load_model(str(tmp_path))


def test_a_missing_or_foreign_tokenizer_is_refused(tmp_path: Path) -> None:
    model("llama").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="tokenizer"):
        load_model(str(tmp_path))
    longer = tokenizer()
    longer.add_tokens([f"word{number}" for number in range(200)])
    longer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="the model embeds 300"):
        load_model(str(tmp_path))


def test_a_model_without_a_chat_template_loads(tmp_path: Path) -> None:
    model("llama").save_pretrained(tmp_path)
    tokenizer(template=None).save_pretrained(tmp_path)
    assert load_model(str(tmp_path)).tokenizer.chat_template is None


def test_the_self_check_runs_on_load_unless_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(lm: HasModel) -> Never:
        raise ModelError("the self-check ran", allowed="-", todo="-")

    monkeypatch.setattr("trimtab.model.load.check_hooks", fails)
    save(tmp_path)
    with pytest.raises(ModelError, match="the self-check ran"):
        Host.load(str(tmp_path))
    assert Host.load(str(tmp_path), self_check=False).n_layers == 3


def test_an_unpinned_id_is_loaded_from_one_commit_and_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path)
    seen = []
    real = load.AutoConfig.from_pretrained

    def config(source: str, **options: object) -> object:
        made = real(tmp_path, **options)
        made._commit_hash = "abc123"
        return made

    def recorded(loader: Callable[..., object]) -> Callable[..., object]:
        def from_pretrained(source: str, **options: object) -> object:
            seen.append(options["revision"])
            return loader(tmp_path, **options)

        return from_pretrained

    monkeypatch.setattr(load.AutoConfig, "from_pretrained", config)
    monkeypatch.setattr(load.AutoTokenizer, "from_pretrained", recorded(load.AutoTokenizer.from_pretrained))
    monkeypatch.setattr(
        load.AutoModelForCausalLM, "from_pretrained", recorded(load.AutoModelForCausalLM.from_pretrained)
    )
    with caplog.at_level(logging.WARNING, logger="trimtab"):
        load_model("someone/model")
    assert seen == ["abc123", "abc123"]
    assert "abc123" in caplog.text
