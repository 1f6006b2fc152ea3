"""Going on from token ids: the core of ``generate`` without a template."""

from __future__ import annotations

import pytest

from tiny_models import language_model
from trimtab.errors import UsageError
from trimtab.model.generate import context_length, continue_ids, generate, stop_ids

SEQUENCES = [[5, 20, 31, 44], [9], [7, 8, 60, 61, 62, 63, 64], [5, 20]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_it_is_generate_without_a_template(temperature: float) -> None:
    lm = language_model("llama")
    prompt = [{"role": "user", "content": "What is 2 + 3?"}]
    text = lm.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    ids = lm.tokenizer.encode(text, add_special_tokens=False)
    (new,) = continue_ids(lm, [ids], max_new_tokens=9, temperature=temperature, seed=4)
    (answer,) = generate(lm, [prompt], max_new_tokens=9, temperature=temperature, seed=4)
    assert lm.tokenizer.decode(new, skip_special_tokens=True) == answer != ""


def test_only_the_last_token_may_end_the_answer() -> None:
    lm = language_model("llama")
    found = continue_ids(lm, SEQUENCES * 10, max_new_tokens=20, temperature=20.0)
    stops = set(stop_ids(lm))
    assert all(not stops & set(ids[:-1]) for ids in found)
    ended = [ids for ids in found if ids[-1] in stops]
    assert 0 < len(ended) < len(found)
    assert all(len(ids) == 20 for ids in found if ids not in ended)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_each_sequence_has_its_own_limit_and_random_stream(batch_size: int) -> None:
    lm = language_model("qwen3")
    whole = continue_ids(lm, SEQUENCES, max_new_tokens=8, temperature=1.0, seed=2)
    limits = [3, 0, 8, 1]
    some = continue_ids(lm, SEQUENCES, max_new_tokens=limits, temperature=1.0, seed=2, batch_size=batch_size)
    assert some == [ids[:limit] for ids, limit in zip(whole, limits, strict=True)]
    assert continue_ids(lm, SEQUENCES[2:], max_new_tokens=8, temperature=1.0, seed=2)[0] != whole[2]


def test_to_go_on_twice_is_to_go_on_once() -> None:
    lm = language_model("gpt2")
    whole = continue_ids(lm, SEQUENCES, max_new_tokens=10)
    half = continue_ids(lm, SEQUENCES, max_new_tokens=4)
    rest = continue_ids(lm, [a + b for a, b in zip(SEQUENCES, half, strict=True)], max_new_tokens=6)
    going = [index for index, ids in enumerate(half) if ids[-1] not in stop_ids(lm)]
    assert going
    assert all(half[index] + rest[index] == whole[index] for index in going)


def test_nothing_to_do_is_no_error_and_wrong_numbers_are() -> None:
    lm = language_model("llama")
    assert continue_ids(lm, [], max_new_tokens=3) == []
    assert continue_ids(lm, [[], [5]], max_new_tokens=[0, 0]) == [[], []]
    with pytest.raises(UsageError, match="2 numbers, 1 sequences"):
        continue_ids(lm, [[5]], max_new_tokens=[1, 1])
    with pytest.raises(UsageError, match="max_new_tokens"):
        continue_ids(lm, [[5]], max_new_tokens=[-1])
    with pytest.raises(UsageError, match="sequence 2 has no token"):
        continue_ids(lm, [[5], []], max_new_tokens=3)


def test_the_context_is_what_the_configuration_says() -> None:
    assert context_length(language_model("gpt2")) == 64
    assert context_length(language_model("gpt_neox")) == 64
    lm = language_model("llama")
    assert context_length(lm) == lm.model.config.max_position_embeddings
