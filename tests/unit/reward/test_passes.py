"""Claims in one batched pass, against each answer by itself through the model's own forward."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from torch import Tensor

from tiny_models import ARCHITECTURES, language_model
from trimtab.data.template import encode_prompt
from trimtab.errors import DataError, UsageError
from trimtab.lens.spans import Spans
from trimtab.model.generate import context_length
from trimtab.model.host import Host
from trimtab.model.sites import layers
from trimtab.records.claims import Claim, Said
from trimtab.records.site import Site
from trimtab.reward.passes import CONFIDENCE, ClaimPass, Placer, Read, read_claims

SITES = (Site(0, "resid_post"), Site(1, "resid_post"))
SHORT, LONG = "Who?", "Where is Mira?"


@cache
def host(architecture: str) -> Host:
    made = language_model(architecture)
    return Host(model=made.model, tokenizer=made.tokenizer, name=made.name, content_hash=made.content_hash)


def said(question: str, answer: str, *texts: str) -> Said:
    claims = tuple(Claim(text=t, start=answer.index(t), end=answer.index(t) + len(t)) for t in texts)
    return Said(prompt=({"role": "user", "content": question},), answer=answer, claims=claims)


ANSWERS = (
    said(LONG, "In Oslo. She is 5.", "In Oslo.", "She is 5."),
    said(SHORT, "Mira, I say.", "Mira", "I say."),
    said(LONG, "Hm.", "Hm."),
    said(LONG, ""),
    said(SHORT, "Zoë ☃ 7. And more", "Zoë ☃ 7."),
    said(LONG, "Well, Oslo it is, not Rome.", "Oslo it is", "Rome."),
    said("Why is it 2?", "It is so.", "It is so."),
    said(SHORT, "Nobody said so."),
)


def read(lm: Host, answers: Sequence[Said] = ANSWERS) -> list[Read]:
    placer = Placer(lm.tokenizer, max_length=context_length(lm))
    return [placer(one, index) for index, one in enumerate(answers)]


def brute(lm: Host, answers: Sequence[Said]) -> tuple[dict[Site, list[Tensor]], Tensor, Tensor]:
    """Every answer alone, whole, and every claim's tokens found by their characters."""
    states: dict[Site, list[Tensor]] = {site: [] for site in SITES}
    figures: list[list[float]] = []
    tokens: list[list[float]] = []
    for one in answers:
        prompt = encode_prompt(lm.tokenizer, one.prompt)
        found = lm.tokenizer(one.answer, add_special_tokens=False, return_offsets_mapping=True)
        with torch.no_grad():
            out = lm.model(torch.tensor([[*prompt, *found["input_ids"]]]), output_hidden_states=True)
        logs = out.logits[0].log_softmax(-1)
        for claim in one.claims:
            inside = range(claim.start, claim.end)
            at = [len(prompt) + n for n, (a, b) in enumerate(found["offset_mapping"]) if set(range(a, b)) & set(inside)]
            for site in SITES:
                states[site].append(out.hidden_states[site.layer + 1][0, at])
            each = [float(logs[p - 1, found["input_ids"][p - len(prompt)]]) for p in at]
            entropy = [float(torch.distributions.Categorical(logits=logs[p - 1]).entropy()) for p in at]
            tokens += [[p, e] for p, e in zip(each, entropy, strict=True)]
            figures.append([sum(each), min(each), max(entropy)])
    return states, torch.tensor(figures), torch.tensor(tokens)


def check_spans(spans: Spans, expected: Sequence[Tensor]) -> None:
    assert spans.lengths.tolist() == [len(rows) for rows in expected]
    torch.testing.assert_close(spans.values, torch.cat(list(expected)), rtol=1e-4, atol=1e-4)


def check_same(one: ClaimPass, other: ClaimPass) -> None:
    for site, spans in one.spans.items():
        assert torch.equal(spans.offsets, other.spans[site].offsets)
        torch.testing.assert_close(spans.values, other.spans[site].values, rtol=1e-4, atol=1e-4)
    if one.confidence is not None:
        torch.testing.assert_close(one.confidence, other.confidence, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("confidence", [False, True])
@pytest.mark.parametrize("shared_least", [1, 1000])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_reads_what_each_answer_alone_gives(architecture: str, shared_least: int, confidence: bool) -> None:
    lm = host(architecture)
    states, figures, tokens = brute(lm, ANSWERS)
    found = read_claims(lm, read(lm), SITES, confidence=confidence, shared_least=shared_least)
    for site in SITES:
        check_spans(found.spans[site], states[site])
    if confidence:
        assert found.confidence is not None
        assert found.confidence.shape == (len(figures), len(CONFIDENCE))
        torch.testing.assert_close(found.confidence, figures, rtol=1e-4, atol=1e-4)
        assert figures[:, 2].min() > 0.1
        assert found.sure is not None
        torch.testing.assert_close(found.sure, tokens, rtol=1e-4, atol=1e-4)
    else:
        assert found.confidence is None
        assert found.sure is None


@pytest.mark.parametrize("site", [Site(0, "resid_post"), Site(1, "resid_post"), Site(2, "mlp_out")])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_shared_prompt_that_stops_early_reads_the_same(architecture: str, site: Site) -> None:
    lm = host(architecture)
    apart = read_claims(lm, read(lm), [site], confidence=False, shared_least=1000)
    check_same(apart, read_claims(lm, read(lm), [site], confidence=False, shared_least=1))


@pytest.mark.parametrize("confidence", [False, True])
@pytest.mark.parametrize("shared_least", [1, 1000])
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_small_batches_read_the_same(architecture: str, shared_least: int, confidence: bool) -> None:
    lm = host(architecture)
    whole = read_claims(lm, read(lm), SITES, confidence=confidence, shared_least=shared_least)
    widths: list[int] = []
    handle = lm.model.register_forward_pre_hook(
        lambda _m, _a, kw: widths.append(kw["input_ids"].numel()), with_kwargs=True
    )
    inner = lm.model.model.register_forward_pre_hook(
        lambda _m, _a, kw: widths.append(kw["input_ids"].numel()), with_kwargs=True
    )
    try:
        for most in (1, 60):
            widths.clear()
            check_same(
                whole,
                read_claims(lm, read(lm), SITES, confidence=confidence, shared_least=shared_least, max_tokens=most),
            )
            longest = max(len(row.input_ids) for row in read(lm))
            assert widths
            assert max(widths) <= max(most, longest)
    finally:
        handle.remove()
        inner.remove()


def test_chunks_of_the_head_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = host("llama")
    whole = read_claims(lm, read(lm), SITES, confidence=True)
    monkeypatch.setattr("trimtab.reward.passes._CHUNK", 3)
    check_same(whole, read_claims(lm, read(lm), SITES, confidence=True))


def test_answers_to_one_long_prompt_read_it_once() -> None:
    lm = host("llama")
    rows = read(lm)
    tokens: list[int] = []
    handle = lm.model.model.register_forward_pre_hook(
        lambda _m, _a, kw: tokens.append(kw["input_ids"].numel()), with_kwargs=True
    )
    try:
        read_claims(lm, rows, SITES, confidence=True, shared_least=1)
        shared = sum(tokens)
        tokens.clear()
        read_claims(lm, rows, SITES, confidence=True, shared_least=1000)
    finally:
        handle.remove()
    assert shared < sum(tokens)
    assert len(tokens) == 1


@pytest.mark.parametrize("shared_least", [1, 1000])
def test_without_confidence_the_pass_stops_at_the_deepest_site(shared_least: int) -> None:
    made = language_model("llama")
    lm = Host(model=made.model, tokenizer=made.tokenizer, name="own", content_hash="own")
    called: list[int] = []
    for number, layer in enumerate(layers(lm.model)):
        layer.register_forward_pre_hook(lambda _module, _args, number=number: called.append(number))
    read_claims(lm, read(lm), SITES, confidence=False, shared_least=shared_least)
    assert set(called) == {0, 1}
    read_claims(lm, read(lm), SITES, confidence=True, shared_least=shared_least)
    assert set(called) == {0, 1, 2}


@pytest.mark.parametrize("confidence", [False, True])
def test_nothing_said_is_nothing_read(confidence: bool) -> None:
    lm = host("llama")
    for answers in ((), (said(SHORT, ""), said(LONG, "No claim."))):
        found = read_claims(lm, read(lm, answers), SITES, confidence=confidence)
        assert [len(found.spans[site]) for site in SITES] == [0, 0]
        assert (found.confidence is not None) == confidence
        assert found.confidence is None or found.confidence.shape == (0, len(CONFIDENCE))


def test_what_stands_after_the_last_claim_is_not_read() -> None:
    first, second = read(
        host("llama"), [said(SHORT, "In Oslo. Right?", "In Oslo."), said(SHORT, "In Oslo.", "In Oslo.")]
    )
    assert first == second


def test_an_answer_longer_than_the_context_is_refused() -> None:
    lm = host("gpt2")
    assert context_length(lm) == 64
    with pytest.raises(DataError, match=r"answer 3: \d+ tokens with its prompt") as caught:
        read(lm, [*ANSWERS[:2], said(LONG, "x. " * 40, "x.")])
    assert "at most 64 tokens" in str(caught.value)


@pytest.mark.parametrize("claim", [Claim(text="Oslo", start=90, end=94), Claim(text="", start=2, end=2)])
def test_a_claim_that_touches_no_token_is_refused(claim: Claim) -> None:
    with pytest.raises(DataError, match="answer 1: no claim"):
        read(host("llama"), [Said(prompt=(), answer="In Oslo.", claims=(claim,))])


def test_a_claim_of_another_answer_is_refused() -> None:
    with pytest.raises(DataError, match="'Rome'"):
        read(host("llama"), [Said(prompt=(), answer="In Oslo.", claims=(Claim(text="Rome", start=3, end=7),))])


def test_a_control_token_in_an_answer_is_text() -> None:
    lm = host("llama")
    (row,) = read(lm, [said(SHORT, "In <|end|> Oslo.", "Oslo.")])
    assert lm.tokenizer.convert_tokens_to_ids("<|end|>") not in row.input_ids[row.prompt :]


def test_a_site_that_the_host_lacks_is_refused() -> None:
    lm = host("llama")
    for confidence in (False, True):
        with pytest.raises(UsageError, match="7"):
            read_claims(lm, read(lm), [Site(7, "resid_post")], confidence=confidence)


def test_activations_that_are_not_finite_are_refused() -> None:
    made = language_model("llama")
    lm = Host(model=made.model, tokenizer=made.tokenizer, name="broken", content_hash="own")
    with torch.no_grad():
        next(iter(layers(lm.model)[1].parameters())).fill_(torch.inf)
    with pytest.raises(DataError, match="activations of broken at"):
        read_claims(lm, read(lm), SITES, confidence=False)
