from dataclasses import replace

import pytest
import torch

from tiny_models import language_model
from trimtab.errors import UsageError
from trimtab.lens.contrast import Contrast, ContrastSet
from trimtab.lens.extract import BankSettings, make_bank
from trimtab.lens.readings import encode_rows, read_rows
from trimtab.model.hooks import writing
from trimtab.model.host import Host
from trimtab.records.figures import Measured
from trimtab.records.rows import ChatRow
from trimtab.records.site import Site
from trimtab.records.training import IGNORED


def _host() -> Host:
    lm = language_model("llama")
    return Host(model=lm.model, tokenizer=lm.tokenizer, name=lm.name, content_hash=lm.content_hash)


def _row(question: str, answer: str) -> ChatRow:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


ROWS = [_row("where?", "in Oslo."), _row("what is it that she said?", "arr"), _row("why?", "because it is so, matey.")]


def test_readings_do_not_depend_on_the_batch() -> None:
    host, sites = _host(), [Site(0), Site(2)]
    encoded = encode_rows(host, ROWS, max_length=64)
    together, alone = (read_rows(host, encoded, sites, batch_size=size) for size in (8, 1))
    for site in sites:
        assert torch.allclose(together.gradients[site], alone.gradients[site], atol=1e-5)
        assert torch.allclose(together.activations[site], alone.activations[site], atol=1e-5)
    assert together.losses is not None
    assert alone.losses is not None
    assert torch.allclose(together.losses, alone.losses, atol=1e-5)
    assert float(together.gradients[Site(0)].norm()) > 0.01


def test_token_pushes_stand_on_learned_tokens_and_average_to_the_row_push() -> None:
    host, site = _host(), Site(1)
    directions = torch.nn.functional.normalize(
        torch.randn(2, host.d_model, generator=torch.Generator().manual_seed(0)), dim=1
    )
    encoded = encode_rows(host, ROWS, max_length=64)
    readings = read_rows(host, encoded, [site], directions=(site, directions))
    for row, pushes in enumerate(readings.token_pushes):
        learned = torch.tensor([label != IGNORED for label in encoded[row].labels])
        assert pushes.shape == (len(encoded[row].input_ids), 2)
        assert not pushes[~learned.numpy()].any()
        assert pushes[learned.numpy()].any()
        expected = -(readings.gradients[site][row] @ directions.T)
        assert torch.allclose(torch.from_numpy(pushes[learned.numpy()]).mean(0), expected, atol=1e-5)


def test_a_push_is_the_change_of_loss_for_a_step_along_the_direction() -> None:
    """Finite difference: moving every predicting position by eps*d changes the row's loss sum by -eps*n*push."""
    host, site, eps = _host(), Site(1), 1e-3
    host.model.double()
    direction = torch.nn.functional.normalize(
        torch.randn(1, host.d_model, generator=torch.Generator().manual_seed(1)), dim=1
    )
    encoded = encode_rows(host, ROWS[:1], max_length=64)
    readings = read_rows(host, encoded, [site], directions=(site, direction))
    ids, labels = torch.tensor([encoded[0].input_ids]), torch.tensor([encoded[0].labels])
    predicting = torch.nn.functional.pad(labels[:, 1:] != IGNORED, (0, 1))

    def loss(step: float) -> float:
        def write(activation: torch.Tensor, _site: Site) -> torch.Tensor:
            return activation + step * predicting[..., None] * direction.to(activation.dtype)

        with torch.no_grad(), writing(host.model, {site: write}):
            logits = host.model(input_ids=ids).logits
        return float(
            torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=IGNORED, reduction="sum")
        )

    slope = (loss(eps) - loss(-eps)) / (2 * eps)
    total = float(readings.token_pushes[0].sum())
    assert slope == pytest.approx(-total, rel=1e-3)
    assert abs(slope) > 1e-3


def _contrasts() -> tuple[Contrast, ...]:
    trait = Contrast(
        name="shouty",
        meaning="shouts",
        fit=ContrastSet(questions=tuple(f"q {i}?" for i in range(8)), elicit=("shout!",)),
        held_out=ContrastSet(questions=tuple(f"h {i}?" for i in range(8)), elicit=("be loud!",)),
    )
    skill = Contrast(
        name="sums",
        meaning="adds",
        kind="skill",
        fit=ContrastSet(rows=tuple(_row(f"{i}+1?", f"{i + 1}") for i in range(8))),
        held_out=ContrastSet(rows=tuple(_row(f"{i}+2?", f"{i + 2}") for i in range(8))),
    )
    return trait, skill


def test_a_bank_is_made_for_its_host_with_evidence_and_is_the_same_twice() -> None:
    host = _host()
    settings = BankSettings(answers=8, max_new_tokens=8)
    bank = make_bank(host, _contrasts(), settings)
    assert bank.names == ("shouty", "sums")
    assert bank.card.model_hash == host.content_hash
    assert bank.card.sites == (Site(0), Site(1), Site(2))
    for concept in bank.concepts:
        for site in bank.card.sites:
            assert float(concept.directions[site].norm()) == pytest.approx(1.0, abs=1e-5)
            assert isinstance(concept.card.evidence[str(site)], Measured)
    again = make_bank(host, _contrasts(), settings)
    assert again.card == bank.card
    other = make_bank(host, _contrasts(), replace(settings, seed=1))
    assert other.card != bank.card


def test_a_site_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="layer"):
        make_bank(_host(), _contrasts(), BankSettings(sites=(Site(9),), answers=4))
