from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from trimtab.errors import StorageError
from trimtab.records.figures import Measured, Unmeasured
from trimtab.records.forecast import TokenMark
from trimtab.records.io import load, save
from trimtab.records.ledger import append_rulings
from trimtab.records.results import Answer, Certificate, League
from trimtab.report.page import render, render_forecast
from unit.report.html_page import by_id, read_page, section
from unit.report.run_folders import (
    CONTROLS,
    answers,
    certificate,
    forecast,
    row_push,
    rulings,
    write_answers,
    write_run,
)

SECTIONS = ("forecast", "ledger", "league", "paired", "training", "worst", "answers", "certificate", "provenance")


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "demo", questions=30)
    render(folder)
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "demo"))


def test_whole_run_has_every_section_in_order(whole: Path) -> None:
    page = read_page(whole / "report.html")
    ids = [element.attributes["id"] for element in page.all() if element.attributes.get("id") in SECTIONS]
    assert ids == list(SECTIONS)
    assert "Not run yet" not in page.text
    assert not page.all(class_="faults")


def test_page_is_small_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    out = render(write_run(tmp_path / "large", questions=200))
    assert sum(file.stat().st_size for file in tmp_path.rglob("answers.jsonl")) > 1_500_000
    assert out.stat().st_size < 1_500_000
    assert "Showing 4 of" in section(read_page(out), "worst").text


def test_same_folder_same_bytes(whole: Path) -> None:
    before = (whole / "report.html").read_bytes()
    assert render(whole).read_bytes() == before


@pytest.mark.parametrize(
    ("file", "gone"),
    [
        ("forecast.json", {"forecast"}),
        ("summary.json", {"league", "paired"}),
        ("certificate.json", {"certificate"}),
        ("arms", {"training", "worst", "answers"}),
    ],
)
def test_a_section_needs_its_file(run: Path, file: str, gone: set[str]) -> None:
    target = run / file
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    page = read_page(render(run))
    assert {name for name in SECTIONS if by_id(page, name) is None} == gone
    links = {a.attributes["href"] for a in page.all("a")}
    assert links <= {f"#{e.attributes['id']}" for e in page.all() if "id" in e.attributes}


def test_rulings_go_when_ledger_and_spec_are_gone(run: Path) -> None:
    (run / "ledger.jsonl").unlink()
    assert by_id(read_page(render(run)), "ledger") is not None
    (run / "spec.md").unlink()
    assert by_id(read_page(render(run)), "ledger") is None


def test_unfinished_run_lists_the_students_it_has(run: Path) -> None:
    (run / "summary.json").unlink()
    (run / "certificate.json").unlink()
    page = read_page(render(run))
    rows = section(page, "arms").all("tbody")[0].all("tr")
    assert len(rows) == 1 + 3 * len(CONTROLS)
    assert "verification (trimtab verify)" in page.all(class_="pending")[0].words()


def test_forecast_alone(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "forecast.html"
    assert render_forecast(forecast(), out) == out
    page = read_page(out)
    assert {name for name in SECTIONS if by_id(page, name) is not None} == {"forecast", "provenance"}
    note = page.all(class_="pending")[0].words()
    for step in ("rulings", "training", "verification", "certificate"):
        assert step in note
    assert "The data would teach pirate, new facts and new sums." in page.all(class_="verdict")[0].words()


def test_unnamed_pull_is_said_and_its_rows_are_open(tmp_path: Path) -> None:
    quiet, loud = tmp_path / "a.html", tmp_path / "b.html"
    render_forecast(forecast(), quiet)
    render_forecast(forecast(unnamed=True), loud)
    assert "Something here has no name" not in read_page(quiet).text
    page = read_page(loud)
    assert "and something that has no name" in page.all(class_="verdict")[0].words()
    panel = page.all(class_="unnamed")[0]
    assert "Something here has no name" in panel.text
    assert "open" in panel.all("details")[0].attributes


def test_empty_folder_and_no_folder(tmp_path: Path) -> None:
    page = read_page(render(tmp_path))
    assert "This folder holds no results yet." in page.text
    with pytest.raises(StorageError, match="no run folder"):
        render(tmp_path / "missing")


def test_nothing_is_loaded_from_elsewhere(whole: Path) -> None:
    page = read_page(whole / "report.html")
    for element in page.all():
        assert element.tag not in {"link", "img", "iframe", "object", "embed", "base", "form"}
        assert not {"src", "srcset", "xlink:href", "action", "style"} & element.attributes.keys()
        assert not any(name.startswith("on") for name in element.attributes)
        assert element.attributes.get("href", "#").startswith("#")
    style = page.all("style")[0].text
    assert "url(" not in style
    assert "@import" not in style
    assert "http" not in (whole / "report.html").read_text().replace("http-equiv", "")


def test_content_policy_allows_this_script_only(whole: Path) -> None:
    page = read_page(whole / "report.html")
    (script,) = page.all("script")
    (policy,) = [m.attributes["content"] for m in page.all("meta") if "http-equiv" in m.attributes]
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def test_tables_and_drawings_are_labelled(whole: Path) -> None:
    page = read_page(whole / "report.html")
    for table in page.all("table"):
        assert table.all("caption")
        heads = table.all("th")
        assert heads
        assert all(head.attributes.get("scope") in {"row", "col"} for head in heads)
    drawings = [svg for svg in page.all("svg") if svg.attributes.get("role") == "img"]
    assert drawings
    assert all(svg.children[0].tag == "title" and svg.children[0].text for svg in drawings)
    assert all(svg.children[1].tag == "desc" for svg in page.all("svg", "plot"))
    ids = [e.attributes["id"] for e in page.all() if "id" in e.attributes]
    assert len(ids) == len(set(ids))


def test_league_table_says_what_was_measured(whole: Path) -> None:
    league = load(League, whole / "summary.json")
    table = section(read_page(whole / "report.html"), "league").all("table", "league")[0]
    rows = {row.all(class_="name")[0].words(): row for row in table.all("tbody")[0].all("tr")}
    assert list(rows)[:2] == ["host", "none"]
    for item in league.controls:
        row = rows[item.control]
        assert ("fights the gradient" in row.text) == item.fights_gradient
        assert (" hull" in row.words()) == item.on_pareto_hull
        figures = (item.skill, item.trait_on_task, item.trait_leak, item.capability, item.obedience)
        for figure, cell in zip(figures, row.all("td"), strict=False):
            assert isinstance(figure, Measured)
            shown = float(cell.all(class_="v")[0].text.rstrip("%"))
            assert shown == pytest.approx(100 * figure.value, abs=0.051)
            low, high = (float(x) for x in cell.all(class_="ci")[0].text.strip("[]").split(","))
            assert (low, high) == pytest.approx((100 * figure.low, 100 * figure.high), abs=0.051)
    (first,) = [name for name, row in rows.items() if "came first" in row.text]
    assert first == "conditional-inoculation"


def test_an_unmeasured_figure_has_its_reason_and_no_bar(whole: Path) -> None:
    table = section(read_page(whole / "report.html"), "league").all("table", "league")[0]
    (row,) = [r for r in table.all("tr") if "row-filter" in r.text]
    (cell,) = [c for c in row.all("td") if c.attributes["data-label"] == "Perplexity"]
    assert cell.words() == "unmeasured: no plain text was held out"
    assert not cell.all("svg")
    others = [c for c in row.all("td") if c is not cell]
    assert others
    assert all(c.all("svg") for c in others)


def test_forecast_figures_and_shared_reasons(whole: Path) -> None:
    made = forecast()
    part = section(read_page(whole / "report.html"), "forecast")
    rows = {r.all(class_="name")[0].words(): r for r in part.all("table", "forecast")[0].all("tbody")[0].all("tr")}
    assert len(rows) == len(made.concepts) == 11
    for item in made.concepts:
        cells = {c.attributes["data-label"]: c for c in rows[item.concept].all("td")}
        assert ("not taught" not in rows[item.concept].text) == item.taught
        assert isinstance(item.push, Measured)
        shown = cells["Push"].all(class_="v")[0].text.replace("−", "-")
        assert float(shown) == pytest.approx(item.push.value, abs=0.00006)
        if isinstance(item.carried, Unmeasured):
            number = re.fullmatch(r"unmeasured \((\d)\)", cells["Carried"].words())
            assert number is not None
            assert f"({number[1]}) unmeasured: {item.carried.reason}" in part.text


def test_verdict_line(whole: Path) -> None:
    lines = read_page(whole / "report.html").all(class_="verdict")[0].words()
    assert "Wanted: new facts and new sums. Not wanted: pirate and overconfidence." in lines
    assert "Of 6 controls, conditional-inoculation came first: " in lines
    assert "Against no control: " in lines
    assert "Certificate for conditional-inoculation: unmeasured, 4 of 5 items passed (unmeasured: perplexity)." in lines


def test_failed_certificate_is_said(run: Path) -> None:
    save(certificate("demo", fail=True), run / "certificate.json")
    block = read_page(render(run)).all(class_="verdict")[0]
    assert "fail" in block.attributes["class"].split()
    assert "(fail: leak; unmeasured: perplexity)" in block.words()


def test_damaged_files_are_named_and_the_rest_stands(run: Path) -> None:
    half = (run / "certificate.json").read_bytes()[:200]
    (run / "certificate.json").write_bytes(half)
    with (run / "arms/none/seed-0/answers.jsonl").open("ab") as file:
        file.write(b'{"exam": "torn')
    (run / "manifest.json").write_bytes(b"\xff\xfe")
    page = read_page(render(run))
    faults = page.all(class_="faults")[0].words()
    assert "certificate.json" in faults
    assert "arms/none/seed-0/answers.jsonl: line 121 cannot be read" in faults
    assert "manifest.json" in faults
    assert by_id(page, "certificate") is None
    assert by_id(page, "league") is not None


def test_loss_that_is_not_finite_is_said(run: Path) -> None:
    with (run / "arms/inoculation/seed-1/metrics.jsonl").open("a") as file:
        file.write('{"step": 310, "loss": NaN}\n{"step": 320, "loss": Infinity}\n')
    part = section(read_page(render(run)), "training")
    assert "seed 1: loss not finite at step 310" in part.words()
    assert not re.search(r"points=\"[^\"]*(nan|inf)", (run / "report.html").read_text())


NASTY = "</script></style><script>alert(1)</script><img src=x onerror='alert(1)'>\"'&<b>{{ 7*7 }}"
HIDDEN = "a\x00b\x07\x1b[31m\x85c\u202ed\u2066e\u2028f\ufeffg\U000e0041"


def poison(folder: Path, text: str) -> None:
    """Put a text into every free field of every file of a run."""
    made = forecast(unnamed=True)
    tokens = (TokenMark(text=text, push=1.0), TokenMark(text=text, push=-1.0), TokenMark(text=text, push=0.0))
    rows = (replace(made.unnamed_rows[0], prompt=text, tokens=tokens),)
    first = replace(made.concepts[0], concept=text, meaning=text, kind=text, rows=rows, carried=Unmeasured(reason=text))
    save(
        replace(
            made, model=text, data=text, bank=text, model_hash=text, unnamed_rows=rows,
            concepts=(first, *made.concepts[1:]),
        ),
        folder / "forecast.json",
    )  # fmt: skip
    ruling = replace(rulings()[0], concept=text, reason=text, clause=text)
    append_rulings(folder / "ledger.jsonl", [ruling, ruling])
    for name in ("spec.md", "run.yaml"):
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps({text: {text: [text]}, "b": text}))
    league = load(League, folder / "summary.json")
    item = replace(league.controls[1], control=text, fights_gradient=False, claims=Unmeasured(reason=text))
    versus = replace(league.comparisons[0], control=text, baseline=text, measure=text)
    arm = replace(league.arms[1], control=text, groups={text: Unmeasured(reason=text)})
    save(
        League(arms=(arm, *league.arms), controls=(item, *league.controls), comparisons=(versus, *league.comparisons)),
        folder / "summary.json",
    )
    proof = load(Certificate, folder / "certificate.json")
    line = replace(proof.items[0], name=text, question=text, wanted=text, figure=Unmeasured(reason=text))
    save(
        replace(proof, run=text, control=text, items=(line,), made_at=text, versions={text: text}),
        folder / "certificate.json",
    )
    path = folder / "arms/none/seed-0"
    asked = answers_of(path)
    write_answers(path / "answers.jsonl", [replace(a, exam=text, group=text, prompt=text, text=text) for a in asked])
    save(replace(arm, control=text), path / "result.json")


def answers_of(path: Path) -> list[Answer]:
    assert path.is_dir()
    return list(answers(random.Random(1), CONTROLS["none"], 8))


def test_everything_is_escaped(run: Path) -> None:
    before = len(read_page(run / "report.html").all("script"))
    poison(run, NASTY)
    page = read_page(render(run))
    assert len(page.all("script")) == before == 1
    assert not page.all("img")
    assert len(page.all("style")) == 1
    assert "alert(1)" not in page.all("script")[0].text
    assert not any(name.startswith("on") for element in page.all() for name in element.attributes)
    assert page.text.count(NASTY) > 20, "the text did not reach the page as text"
    assert "49" not in [element.text for element in page.all("b")]
    assert not page.all(class_="faults")


def test_hidden_characters_are_made_visible(run: Path) -> None:
    poison(run, HIDDEN)
    text = render(run).read_text(encoding="utf-8")
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u202e\u2066\ufeff\U000e0041]", text)
    assert text.count("⟨U+202E⟩") > 20
    assert "␀" in text
    read_page(run / "report.html")


@pytest.mark.parametrize("text", ["x" * 1_000_000, "word " * 200_000, "\n" * 1_000_000, "م" * 1_000_000])
def test_huge_texts_are_cut_with_a_note(run: Path, text: str) -> None:
    path = run / "arms/none/seed-0"
    asked = [replace(answer, text=text, prompt=text) for answer in answers_of(path)[:4]]
    write_answers(path / "answers.jsonl", asked)
    made = forecast()
    rows = (
        replace(
            made.concepts[0].rows[0],
            prompt=text,
            tokens=(TokenMark(text=text, push=1.0), *(TokenMark(text=" a", push=0.1),) * 299),
        ),
    )
    save(replace(made, concepts=(replace(made.concepts[0], rows=rows),)), run / "forecast.json")
    out = render(run)
    assert out.stat().st_size < 1_500_000
    page = read_page(out)
    assert "1,000,000 characters in all" in section(page, "worst").words()
    assert "140 more tokens not shown" in section(page, "forecast").words()


def test_rows_are_capped_with_a_count(tmp_path: Path) -> None:
    made = forecast()
    rows = tuple(row_push(random.Random(i), 0.1) for i in range(40))
    out = render_forecast(replace(made, concepts=(replace(made.concepts[0], rows=rows),)), tmp_path / "f.html")
    concept = read_page(out).all("details", "concept")[0]
    assert len(concept.all("li")) == 5
    assert "Showing 5 of 40 rows." in concept.words()
