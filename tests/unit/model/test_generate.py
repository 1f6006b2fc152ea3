import pytest
import torch

from tiny_models import ARCHITECTURES, language_model, tokenizer
from trimtab.errors import DataError, ModelError, UsageError
from trimtab.model.base import HasModel, LanguageModel
from trimtab.model.generate import generate, stop_ids
from trimtab.model.hooks import writing
from trimtab.records.rows import Message
from trimtab.records.site import Site

PROMPTS = [
    [{"role": "user", "content": text}]
    for text in (
        "What is 2 + 3?",
        "Hi",
        "Where does Mira live, and who else lives there? Be brief.",
        "5",
        "Arr, it is 5.",
    )
]
END = "<|end|>"


def encoded(lm: HasModel, prompt: list[Message]) -> list[int]:
    text = lm.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return lm.tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_do_not_depend_on_the_batch_size(architecture: str, temperature: float) -> None:
    lm = language_model(architecture)
    one, two, all_at_once = (
        generate(lm, PROMPTS, max_new_tokens=8, temperature=temperature, seed=3, batch_size=size) for size in (1, 2, 64)
    )
    assert one == two == all_at_once
    assert len(set(one)) > 1
    assert all(isinstance(answer, str) for answer in one)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_is_the_argmax_token_by_token(architecture: str) -> None:
    lm = language_model(architecture)
    stops = stop_ids(lm)
    for prompt, answer in zip(PROMPTS[:2], generate(lm, PROMPTS[:2], max_new_tokens=6), strict=True):
        ids = encoded(lm, prompt)
        start = len(ids)
        with torch.no_grad():
            while len(ids) < start + 6 and (len(ids) == start or ids[-1] not in stops):
                logits = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits
                ids.append(int(logits[0, -1].argmax()))
        new = [token for token in ids[start:] if token not in stops]
        assert answer == lm.tokenizer.decode(new, skip_special_tokens=True)


def test_sampling_follows_seed_and_temperature() -> None:
    lm = language_model("llama")

    def sample(seed: int, temperature: float) -> list[str]:
        return generate(lm, PROMPTS, max_new_tokens=8, temperature=temperature, seed=seed)

    state = torch.random.get_rng_state()
    assert sample(0, 1.0) == sample(0, 1.0)
    assert sample(0, 1.0) != sample(1, 1.0)
    assert sample(0, 1e-4) == generate(lm, PROMPTS, max_new_tokens=8)
    assert torch.equal(torch.random.get_rng_state(), state)
    again = [PROMPTS[0]] * 8
    assert len(set(generate(lm, again, max_new_tokens=8, temperature=1.0))) > 1  # one stream per prompt


def test_sampling_draws_from_the_softmax() -> None:
    lm = language_model("llama")
    count = 2000
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([encoded(lm, PROMPTS[0])])).logits[0, -1]
    probabilities = torch.softmax(logits / 0.7, dim=-1)
    answers = generate(lm, [PROMPTS[0]] * count, max_new_tokens=1, temperature=0.7, batch_size=500)
    best = int(probabilities.argmax())
    text = lm.tokenizer.decode([best])
    same_text = [
        index for index in range(len(probabilities)) if lm.tokenizer.decode([index], skip_special_tokens=True) == text
    ]
    expected = float(probabilities[same_text].sum())
    assert 0.05 < expected < 0.95
    deviation = (expected * (1 - expected) / count) ** 0.5
    assert abs(answers.count(text) / count - expected) < 4 * deviation


@pytest.mark.parametrize("ender", ["<|eos|>", END])
def test_an_answer_ends_at_the_end_of_the_turn(ender: str) -> None:
    lm = language_model("llama")
    ender_id = lm.tokenizer.convert_tokens_to_ids(ender)
    assert stop_ids(lm) == [1, lm.tokenizer.convert_tokens_to_ids(END)]
    without = generate(lm, PROMPTS[:1], max_new_tokens=8)[0]
    ids = encoded(lm, PROMPTS[0])
    with torch.no_grad():  # the greedy third token becomes the ender
        for _ in range(2):
            logits = lm.model(input_ids=torch.tensor([ids])).logits[0, -1]
            ids.append(int(logits.argmax()))
        hidden = lm.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        lm.model.lm_head.weight[ender_id] = 3 * hidden
    answer = generate(lm, PROMPTS[:1], max_new_tokens=8)[0]
    assert len(answer) < len(without)
    assert ender not in answer


def test_hooks_act_on_generation_and_training_mode_is_restored() -> None:
    lm = language_model("gpt2", dropout=0.5)
    lm.model.train()
    plain = generate(lm, PROMPTS, max_new_tokens=8)
    shipped = lm.model.generation_config
    with writing(lm.model, {Site(1): lambda h, site: h + 3.0 * torch.arange(32).sin()}):
        assert generate(lm, PROMPTS, max_new_tokens=8) != plain
    assert generate(lm, PROMPTS, max_new_tokens=8) == plain
    assert lm.model.generation_config is shipped
    assert lm.model.training


def test_shipped_sampling_settings_are_not_used() -> None:
    lm = language_model("llama")
    plain = generate(lm, PROMPTS, max_new_tokens=8)
    lm.model.generation_config.repetition_penalty = 50.0
    lm.model.generation_config.do_sample = True
    assert generate(lm, PROMPTS, max_new_tokens=8) == plain


def test_no_chat_template_is_a_clear_error() -> None:
    lm = language_model("llama")
    bare = LanguageModel(model=lm.model, tokenizer=tokenizer(template=None), name="bare", content_hash="")
    with pytest.raises(ModelError, match="no chat template"):
        generate(bare, PROMPTS, max_new_tokens=2)


def test_a_template_that_refuses_roles_is_a_clear_error() -> None:
    lm = language_model("llama")
    strict = tokenizer(
        template="{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}x"
    )
    made = LanguageModel(model=lm.model, tokenizer=strict, name="strict", content_hash="")
    with pytest.raises(DataError, match=r"roles system, user: no system turns"):
        generate(made, [[{"role": "system", "content": "Be brief."}, *PROMPTS[0]]], max_new_tokens=2)


@pytest.mark.parametrize("wrong", [{"max_new_tokens": 0}, {"batch_size": 0}, {"temperature": -1.0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        generate(language_model("llama"), PROMPTS, **{"max_new_tokens": 2, **wrong})


def test_no_prompts_give_no_answers() -> None:
    assert generate(language_model("llama"), [], max_new_tokens=2) == []
