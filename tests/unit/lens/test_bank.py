from dataclasses import replace
from pathlib import Path

import pytest
import torch

from control_world import bank as make_bank
from trimtab.errors import ModelError, StorageError, UsageError
from trimtab.lens.bank import Bank


def test_a_bank_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    bank = make_bank()
    bank.save(tmp_path)
    back = Bank.load(tmp_path)
    assert back.card == bank.card
    for old, new in zip(bank.concepts, back.concepts, strict=True):
        for site, vector in old.directions.items():
            assert torch.equal(new.directions[site], vector)
        for site, vector in old.signatures.items():
            assert torch.equal(new.signatures[site], vector)


def test_another_host_is_refused() -> None:
    bank = make_bank().without("cheerful")
    bank.check_host(bank.card.model_hash)
    with pytest.raises(ModelError, match="was made for"):
        bank.check_host("1" * 64)


def test_unknown_concepts_and_empty_banks_are_refused() -> None:
    bank = make_bank()
    assert bank.without("pirate").names == ("cheerful", "sums")
    with pytest.raises(UsageError, match="pirat"):
        bank.without("pirat")
    with pytest.raises(UsageError, match="without any concept"):
        bank.without("pirate", "cheerful", "sums")


def test_a_torn_bank_is_refused(tmp_path: Path) -> None:
    bank = make_bank().without("cheerful")
    bank.save(tmp_path)
    (tmp_path / "vectors.safetensors").write_bytes((tmp_path / "vectors.safetensors").read_bytes()[:40])
    with pytest.raises(StorageError, match="whole bank"):
        Bank.load(tmp_path)
    with pytest.raises(StorageError):
        Bank.load(tmp_path / "nowhere")


def test_a_renamed_concept_without_vectors_is_refused(tmp_path: Path) -> None:
    bank = make_bank().without("cheerful")
    other = replace(bank.card, concepts=(replace(bank.card.concepts[0], name="formal"),))
    bank.save(tmp_path)
    Bank(card=other, concepts=()).save(tmp_path / "card")
    (tmp_path / "bank.json").write_bytes((tmp_path / "card" / "bank.json").read_bytes())
    with pytest.raises(StorageError, match="formal"):
        Bank.load(tmp_path)
