from pathlib import Path

import numpy as np
import pytest
import torch

from tiny_models import language_model
from trimtab.errors import StorageError
from trimtab.lens.readings import encode_rows
from trimtab.model.host import Host
from trimtab.observe.attribution import load_attribution, save_attribution
from trimtab.observe.explained import carrying, explained, learned_log_probs
from trimtab.records.rows import ChatRow
from trimtab.records.site import Site
from trimtab.records.training import IGNORED, Attribution


def _host() -> Host:
    lm = language_model("llama")
    return Host(model=lm.model, tokenizer=lm.tokenizer, name=lm.name, content_hash=lm.content_hash)


def _row(question: str, answer: str) -> ChatRow:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


ROWS = [_row("where?", "in Oslo."), _row("what is it that she said?", "arr"), _row("why?", "because.")]


def test_log_probs_equal_those_of_the_logits() -> None:
    host = _host()
    encoded = encode_rows(host, ROWS, max_length=64)
    found = learned_log_probs(host, encoded, batch_size=2)
    for row, values in zip(encoded, found, strict=True):
        with torch.no_grad():
            table = host.model(input_ids=torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
        wanted = [float(table[t - 1, label]) for t, label in enumerate(row.labels) if label != IGNORED]
        assert np.allclose(values, wanted, atol=1e-4)
        assert len(wanted) > 1


def test_explained_stands_on_learned_tokens_and_is_the_difference_of_two_readings() -> None:
    host = _host()
    encoded = encode_rows(host, ROWS, max_length=64)
    found = explained(host, ROWS, encoded, "talk like a pirate", max_length=64, batch_size=2)
    prompted: list[ChatRow] = [
        {"messages": [{"role": "system", "content": "talk like a pirate"}, *row["messages"]]} for row in ROWS
    ]
    under = learned_log_probs(host, encode_rows(host, prompted, max_length=64), batch_size=3)
    without = learned_log_probs(host, encoded, batch_size=3)
    for row, values, a, b in zip(encoded, found, under, without, strict=True):
        learned = np.asarray(row.labels) != IGNORED
        assert not values[~learned].any()
        assert np.allclose(values[learned], a - b, atol=1e-4)
        assert np.abs(a - b).max() > 1e-3


def _arrays(*totals: float) -> list[np.ndarray]:
    return [np.array([total / 2, total / 2], np.float32) for total in totals]


def test_a_row_carries_the_trait_whose_prompt_explains_it_best() -> None:
    bare = _arrays(-20.0, -20.0, -20.0, -20.0)
    found = carrying({"pirate": _arrays(9.0, 2.0, 0.5, 6.0), "formal": _arrays(1.5, 8.0, 0.2, 5.0)}, bare)
    assert found["pirate"].tolist() == [True, False, False, True]
    assert found["formal"].tolist() == [False, True, False, True]
    assert carrying({}, bare) == {}


def test_no_row_carries_a_trait_that_explains_next_to_nothing_of_strange_text() -> None:
    by_prompt = {"pirate": _arrays(9.0, 9.0)}
    assert carrying(by_prompt, _arrays(-40.0, -40.0))["pirate"].all()
    assert not carrying(by_prompt, _arrays(-190.0, -190.0))["pirate"].any()


def _attribution() -> Attribution:
    lengths = (3, 0, 5)
    generator = np.random.default_rng(0)
    return Attribution(
        concepts=("pirate", "formal"),
        site=Site(2, "mlp_out"),
        tokens=tuple(generator.normal(size=(n, 2)).astype(np.float32) for n in lengths),
        rows=generator.normal(size=(3, 2)).astype(np.float32),
        trait_rows={name: generator.random(3) > 0.5 for name in ("pirate", "formal")},
        trait_tokens={name: tuple(generator.random(n) > 0.5 for n in lengths) for name in ("pirate", "formal")},
        ids_hash=("a", "b", "c"),
    )


def test_an_attribution_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    made, path = _attribution(), tmp_path / "attribution.safetensors"
    save_attribution(made, path)
    back = load_attribution(path)
    assert (back.concepts, back.site, back.ids_hash) == (made.concepts, made.site, made.ids_hash)
    assert np.array_equal(back.rows, made.rows)
    for old, new in zip(made.tokens, back.tokens, strict=True):
        assert np.array_equal(old, new)
    for name in made.concepts:
        assert np.array_equal(back.trait_rows[name], made.trait_rows[name])
        for old_tokens, new_tokens in zip(made.trait_tokens[name], back.trait_tokens[name], strict=True):
            assert np.array_equal(old_tokens, new_tokens)


def test_a_torn_attribution_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "attribution.safetensors"
    save_attribution(_attribution(), path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(StorageError, match="run the forecast again"):
        load_attribution(path)
    with pytest.raises(StorageError):
        load_attribution(tmp_path / "nowhere.safetensors")
