"""Banks of all kinds: concepts that only read, saved lenses, provenance, and saves that may be interrupted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from control_world import bank as make_bank
from tiny_models import WIDTH
from trimtab.errors import ModelError, StorageError, UsageError
from trimtab.lab.sample import sample_rows
from trimtab.lens import bank as module
from trimtab.lens.bank import Bank, ReadCard, ReadConcept
from trimtab.lens.bank_files import changing
from trimtab.lens.base import Lens
from trimtab.lens.directions import DirectionLens
from trimtab.model.host import Host
from trimtab.observe.forecast import ForecastSettings, observe
from trimtab.records.figures import Measured, Unmeasured
from trimtab.records.lens import Evidence, LensCard, Score
from trimtab.records.site import Site

HALF = Measured(value=0.9, low=0.8, high=0.95, n=20)
SCORE = Score(
    instrument="attention",
    baseline=False,
    concept="evil",
    site=Site(1),
    pooling="max",
    evidence=Evidence(auroc=HALF, auprc=HALF, recall_at_1_fpr=HALF, positives=10, negatives=10),
)


def lens(concept: str = "evil", *, layer: int = 1, model_hash: str = "0" * 64, evidence: bool = True) -> Lens:
    card = LensCard(
        concept=concept,
        meaning=f"is {concept}",
        kind="direction",
        site=Site(layer),
        pooling="max",
        model="tiny",
        model_hash=model_hash,
        scores=(replace(SCORE, concept=concept),) if evidence else (),
        provenance={"data": "a test"},
    )
    return DirectionLens(card=card, direction=torch.arange(WIDTH).float(), shift=0.5)


def imported(name: str = "imported") -> ReadConcept:
    unknown = Unmeasured(reason="a test")
    card = ReadCard(name=name, meaning="came from elsewhere", kind="trait", evidence={"0.resid_post": unknown})
    return ReadConcept(card=card, directions={Site(0): torch.nn.functional.one_hot(torch.tensor(3), WIDTH).float()})


def same_concepts(one: Bank, other: Bank, names: tuple[str, ...]) -> bool:
    """Whether the named concepts are equal bit for bit."""
    pairs = [(one[name], other[name]) for name in names]
    return all(
        a.card == b.card and all(torch.equal(getattr(a, kind)[site], getattr(b, kind)[site]) for site in a.directions)
        for a, b in pairs
        for kind in ("directions", "supplies", "signatures")
    )


def test_every_kind_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    bank = make_bank().with_concept(imported()).with_lens(lens()).with_lens(lens("pirate"), name="probe of mine")
    bank.save(tmp_path)
    back = Bank.load(tmp_path)
    assert back.card == bank.card
    assert same_concepts(back, bank, bank.names)
    assert [concept.name for concept in back.read_only] == ["imported", "evil"]
    assert torch.equal(back.find("imported").directions[Site(0)], bank.find("imported").directions[Site(0)])
    (name,) = back.find("evil").lenses
    assert name == "direction 1 resid_post"
    saved = back.find("pirate").lenses["probe of mine"]
    assert saved.card == lens("pirate").card
    for key, tensor in lens("pirate").tensors().items():
        assert torch.equal(saved.tensors()[key], tensor)


def test_a_lens_brings_its_concept_with_meaning_evidence_and_provenance() -> None:
    card = make_bank().with_lens(lens()).find("evil").card
    assert (card.meaning, card.kind, card.provenance) == ("is evil", "property", {"data": "a test"})
    assert card.evidence == {"1.resid_post": HALF}
    bare = make_bank().with_lens(lens(evidence=False)).find("evil").card
    assert isinstance(bare.evidence["1.resid_post"], Unmeasured)


def test_only_concepts_that_push_are_offered_to_forecasts_and_controls() -> None:
    bank = make_bank().with_concept(imported()).with_lens(lens())
    assert bank.names == make_bank().names
    assert [concept.name for concept in bank.everything] == [*bank.names, "imported", "evil"]
    with pytest.raises(UsageError, match="'evil', which can only be read"):
        _ = bank["evil"]
    with pytest.raises(UsageError, match="'devil'"):
        bank.find("devil")
    assert bank.without("imported").find("evil").name == "evil"
    bank.check_pushes()
    with pytest.raises(UsageError, match="no concept can push"):
        bank.without(*bank.names).check_pushes()


def test_a_forecast_refuses_a_bank_in_which_nothing_pushes() -> None:
    host, rows = Host.load("lab", self_check=False), sample_rows(8, 0)
    site = Site(1)
    empty = Bank.empty(name="read", model=host.name, model_hash=host.content_hash, site=site, sites=[site])
    bank = empty.with_lens(lens(model_hash=host.content_hash))
    assert [concept.name for concept in bank.everything] == ["evil"]
    with pytest.raises(UsageError, match="'read', in which no concept can push"):
        observe(host, rows, bank=bank)
    mixed = Bank.load("lab").with_lens(lens(model_hash=host.content_hash))
    seen = observe(host, rows, bank=mixed, settings=ForecastSettings(with_baselines=False, explain=False))
    assert {item.concept for item in seen.forecast.concepts} == set(mixed.names)


def test_a_lens_of_another_host_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="was made for"):
        make_bank().with_lens(lens(model_hash="1" * 64))
    bank = make_bank().with_lens(lens())
    bank.save(tmp_path)
    card = tmp_path / "lenses" / "evil" / "direction 1 resid_post" / "lens.json"
    card.write_text(card.read_text().replace("0" * 64, "1" * 64))
    with pytest.raises(ModelError, match="was made for"):
        Bank.load(tmp_path)


@pytest.mark.parametrize("name", ["..", "a/b", "", "../../x", "-x", "a\nb"])
def test_a_name_that_would_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="letters, digits"):
        make_bank().with_concept(imported(name))
    with pytest.raises(UsageError, match="letters, digits"):
        make_bank().with_lens(lens(), name=name or "../x")
    card = replace(imported(name).card, lenses=("x",))
    made = replace(make_bank(), card=replace(make_bank().card, read_only=(card,)))
    made.save(tmp_path)
    with pytest.raises(UsageError, match="letters, digits"):
        Bank.load(tmp_path)


def test_names_that_are_taken_are_refused() -> None:
    bank = make_bank().with_lens(lens())
    with pytest.raises(UsageError, match="there is one already"):
        bank.with_concept(imported("pirate"))
    with pytest.raises(UsageError, match="there is one already"):
        bank.with_concept(imported("evil"))
    with pytest.raises(UsageError, match="there is one already"):
        bank.with_lens(lens())


def test_a_direction_reads_neutral_as_0_and_eliciting_as_1() -> None:
    bank = make_bank()
    pirate = bank["pirate"]
    card = replace(pirate.card, neutral={str(site): -2.0 for site in bank.card.sites})
    bank = replace(bank, concepts=(replace(pirate, card=card), *bank.concepts[1:]))
    read = bank.lens("pirate")
    assert read is not None
    direction, gap = pirate.directions[Site(1)], pirate.card.gaps["1.resid_post"]
    values = torch.stack([-2.0 * direction, (gap - 2.0) * direction])
    assert torch.allclose(read.tokens(values), torch.tensor([0.0, 1.0]), atol=1e-5)
    assert bank.with_lens(lens(layer=2)).lens("evil") is None


def test_an_interrupted_addition_leaves_the_bank_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = make_bank()
    old.save(tmp_path)
    card = (tmp_path / "bank.json").read_bytes()
    bigger = old.with_concept(imported()).with_lens(lens()).with_lens(lens("pirate"))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save", killed)  # all is written but the card
    with pytest.raises(KeyboardInterrupt):
        bigger.save(tmp_path)
    assert (tmp_path / "bank.json").read_bytes() == card
    back = Bank.load(tmp_path)
    assert back.card == old.card
    assert same_concepts(back, old, old.names)
    monkeypatch.undo()
    bigger.save(tmp_path)
    assert len(Bank.load(tmp_path).everything) == len(old.everything) + 2


def test_vectors_of_another_bank_are_refused_though_the_names_fit(tmp_path: Path) -> None:
    make_bank().save(tmp_path)
    other = make_bank()
    first = other.concepts[0]
    moved = replace(first, directions={site: -vector for site, vector in first.directions.items()})
    replace(other, concepts=(moved, *other.concepts[1:])).save(tmp_path / "other")
    (tmp_path / "vectors.safetensors").write_bytes((tmp_path / "other" / "vectors.safetensors").read_bytes())
    with pytest.raises(StorageError, match=r"vectors of 'pirate' are not those that bank\.json"):
        Bank.load(tmp_path)


def test_the_labs_bank_of_before_loads_unchanged() -> None:
    bank = Bank.load("lab")
    assert len(bank.concepts) == 11
    assert not bank.read_only
    for concept in bank.concepts:
        assert set(concept.directions) == set(concept.supplies) == set(bank.card.sites)


def test_two_cannot_change_one_bank_at_once_and_a_change_that_failed_leaves_no_trace(tmp_path: Path) -> None:
    folder = tmp_path / "bank"
    with changing(folder), pytest.raises(StorageError, match="another process"), changing(folder):
        pass
    assert not folder.exists()
    make_bank().save(folder)
    with FileLock(folder / ".lock"), pytest.raises(StorageError, match="another process"), changing(folder):
        pass
    with changing(folder):
        pass
    assert Bank.load(folder).names == make_bank().names
