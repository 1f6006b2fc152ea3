"""A lens that watches generation reads what it would read of the finished text, and leaves no trace."""

from __future__ import annotations

import pytest
import torch

from tiny_models import ARCHITECTURES, language_model
from trimtab.data.template import encode_prompt
from trimtab.errors import UsageError
from trimtab.guard.monitor import BLOCK, watching
from trimtab.lens.directions import DirectionLens
from trimtab.lens.probes.linear import LogisticLens
from trimtab.model.base import HasModel, LanguageModel
from trimtab.model.capture import capture
from trimtab.model.generate import continue_ids, generate, stop_ids
from trimtab.records.lens import LensCard
from trimtab.records.rows import Message
from trimtab.records.site import Site

PROMPTS: list[list[Message]] = [
    [{"role": "user", "content": text}] for text in ("What is 2 + 3?", "Hi", "Where does Mira live? Be brief.", "5")
]


def a_lens(lm: LanguageModel, site: Site) -> LogisticLens:
    card = LensCard(
        concept="noise",
        meaning="a random direction",
        kind="logistic",
        model=lm.name,
        model_hash=lm.content_hash,
        site=site,
        pooling="last",
    )
    weight = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(1))
    return LogisticLens(card=card, weight=weight, bias=0.5)


def one_pass(lm: HasModel, lens: LogisticLens, prompt: list[int], new: list[int]) -> torch.Tensor:
    ids = torch.tensor([prompt + new])
    found = capture(lm, ids, torch.ones_like(ids), [lens.card.site])[lens.card.site]
    return lens.tokens(found[0, len(prompt) :])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_scores_are_those_of_the_finished_text(architecture: str, temperature: float) -> None:
    lm = language_model(architecture)
    lens = a_lens(lm, Site(1))
    prompts = [encode_prompt(lm.tokenizer, prompt) for prompt in PROMPTS]
    limits = [12, 5, 1, 12]
    with watching(lm, lens) as scores:
        new = continue_ids(lm, prompts, max_new_tokens=limits, temperature=temperature, batch_size=3)
    assert len(scores.sequences) == len(prompts)
    for prompt, ids in zip(prompts, new, strict=True):
        found = scores.of(prompt, ids)
        assert found.shape == (len(ids),)
        read = found.isfinite()
        assert read[:-1].all()
        assert torch.allclose(found[read], one_pass(lm, lens, prompt, ids)[read], atol=1e-4)
    assert max(len(ids) for ids in new) > 1
    assert scores.of(prompts[0], new[0])[:-1].std() > 0.1


def test_many_tokens_are_scored_in_blocks() -> None:
    lm = language_model("llama")
    lens = a_lens(lm, Site(2, "mlp_out"))
    prompts = [encode_prompt(lm.tokenizer, prompt) for prompt in PROMPTS]
    length = 2 * BLOCK + 7
    with torch.no_grad():
        lm.model.lm_head.weight[stop_ids(lm)] = 0  # long answers
    with watching(lm, lens) as scores:
        new = continue_ids(lm, prompts, max_new_tokens=length, temperature=0.5)
    assert max(len(ids) for ids in new) == length
    for prompt, ids in zip(prompts, new, strict=True):
        found = scores.of(prompt, ids)
        assert int(found.isnan().sum()) == 1
        assert torch.allclose(found[:-1], one_pass(lm, lens, prompt, ids)[:-1], rtol=1e-3, atol=1e-3)


def test_a_direction_lens_reads_too() -> None:
    lm = language_model("gpt2")
    logistic = a_lens(lm, Site(0))
    lens = DirectionLens(card=logistic.card, direction=logistic.weight, shift=-logistic.bias)
    with watching(lm, lens) as scores, watching(lm, logistic) as again:
        generate(lm, PROMPTS, max_new_tokens=6)
    for one, two in zip(scores.sequences, again.sequences, strict=True):
        assert one.token_ids == two.token_ids
        assert torch.allclose(one.scores, two.scores, atol=1e-4)
    assert sum(len(one.token_ids) for one in scores.sequences) > len(PROMPTS)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_watching_changes_nothing_and_leaves_nothing(temperature: float) -> None:
    lm = language_model("qwen3")

    def answers() -> list[str]:
        return generate(lm, PROMPTS, max_new_tokens=10, temperature=temperature)

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules())

    plain, bare = answers(), hooks()
    with watching(lm, a_lens(lm, Site(1))) as scores:
        assert hooks() == bare + 2
        assert answers() == plain
    assert hooks() == bare
    read = len(scores.sequences)
    assert answers() == plain
    assert len(scores.sequences) == read == len(PROMPTS)


def test_an_error_inside_leaves_nothing() -> None:
    lm = language_model("llama")
    with pytest.raises(RuntimeError, match="on purpose"), watching(lm, a_lens(lm, Site(1))):
        raise RuntimeError("on purpose")
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in lm.model.modules())


def test_another_reading_of_the_same_model_is_not_taken_for_generation() -> None:
    lm = language_model("llama")
    lens = a_lens(lm, Site(1))
    prompt = encode_prompt(lm.tokenizer, PROMPTS[0])
    with watching(lm, lens) as scores:
        (new,) = continue_ids(lm, [prompt], max_new_tokens=6)
        before = scores.of(prompt, new)
        one_pass(lm, lens, prompt, new)
        assert torch.equal(scores.of(prompt, new)[:-1], before[:-1])
        (again,) = continue_ids(lm, [[*prompt, *new[:2]]], max_new_tokens=4)
    assert [len(one.prompt_ids) for one in scores.sequences] == [len(prompt), len(prompt) + 2]
    assert torch.allclose(scores.of([*prompt, *new[:2]], again)[:-1], before[2:-1], atol=1e-4)


def test_a_sequence_that_was_not_watched_is_a_clear_error() -> None:
    lm = language_model("llama")
    prompts = [encode_prompt(lm.tokenizer, prompt) for prompt in PROMPTS[:2]]
    with watching(lm, a_lens(lm, Site(1))) as scores:
        (new,) = continue_ids(lm, prompts[:1], max_new_tokens=6)
    for prompt, ids in ((prompts[1], new), (prompts[0], [*new, 7, 7]), (prompts[0], [new[0] + 1, *new[1:]])):
        with pytest.raises(UsageError, match="generated inside the `with`"):
            scores.of(prompt, ids)


def test_a_site_that_the_model_lacks_is_refused() -> None:
    lm = language_model("llama")
    with pytest.raises(UsageError, match="layer"), watching(lm, a_lens(lm, Site(99))):
        pass
