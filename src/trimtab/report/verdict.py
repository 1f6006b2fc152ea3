"""The verdict of a run in plain words: what the data would teach, what was wanted, what came out, what is certified."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.records.figures import Measured
from trimtab.records.forecast import Forecast
from trimtab.records.ledger import Ledger
from trimtab.records.results import Certificate, ControlSummary, League, Outcome
from trimtab.report.measures import HOST, NONE, best_control
from trimtab.report.source import RunSource
from trimtab.report.words import listed, number, plural, sentence


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the loop: whether the folder holds it, and the command that makes it."""

    name: str
    done: bool
    command: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The sentences at the top of the page.

    Attributes:
        teaches: What the data would teach.
        wanted: What the spec makes of it.
        result: Which control did best, and by how much.
        certificate: The certificate in one sentence.
        status: The certificate's verdict; ``None`` without one.
        steps: What has been run and what has not.
    """

    teaches: str
    wanted: str
    result: str
    certificate: str
    status: Outcome | None
    steps: tuple[Step, ...]


def verdict(run: RunSource) -> Verdict:
    """The verdict of whatever is in the folder; nothing is said of a step that has not been run."""
    trained = any(arm.curve is not None for arm in run.arms)
    verified = run.league is not None
    return Verdict(
        teaches="" if run.forecast is None else _teaches(run.forecast),
        wanted="" if run.ledger is None else _wanted(run.ledger),
        result="" if run.league is None else _result(run.league, run.certificate),
        certificate="" if run.certificate is None else _certificate(run.certificate),
        status=None if run.certificate is None else run.certificate.verdict,
        steps=(
            Step(name="forecast", done=run.forecast is not None, command="trimtab forecast"),
            Step(name="rulings", done=run.ledger is not None, command="trimtab plan"),
            Step(name="training", done=trained or verified, command="trimtab train"),
            Step(name="verification", done=verified, command="trimtab verify"),
            Step(name="certificate", done=run.certificate is not None, command="trimtab verify"),
        ),
    )


def _teaches(forecast: Forecast) -> str:
    taught = [item.concept for item in forecast.concepts if item.taught]
    if taught and forecast.unnamed:
        return f"The data would teach {listed(taught)}, and something that has no name."
    if taught:
        return f"The data would teach {listed(taught)}."
    if forecast.unnamed:
        return "The data would teach something that has no name, and no concept of the bank."
    return "The data would teach no concept of the bank."


def _wanted(ledger: Ledger) -> str:
    def names(verdict: str) -> list[str]:
        return [item.concept for item in ledger.current().values() if item.verdict == verdict]

    parts = [
        f"Wanted: {listed(names('learn'))}." if names("learn") else "No concept is wanted.",
        f"Not wanted: {listed(names('avoid'))}." if names("avoid") else "None is to be avoided.",
    ]
    if names("needs-human"):
        parts.append(f"Not yet ruled on: {listed(names('needs-human'))}.")
    return " ".join(parts)


def _result(league: League, certificate: Certificate | None) -> str:
    best = best_control(league, certificate)
    by_name = {item.control: item for item in league.controls}
    if best is None:
        return "No control that works with the gradient has been measured on both the skill and the trait."
    others = sum(item.control not in (HOST, NONE) for item in league.controls)
    lead = f"Of {others} controls, {best} came first" if others > 1 else f"{best} was the only control tried"
    return f"{lead}: {_figures(by_name[best])}. {_against(by_name[best], by_name.get(NONE))}".strip()


def _figures(item: ControlSummary) -> str:
    clauses = (
        (item.skill, "{} of held-out skill questions right", "the skill {}"),
        (item.trait_on_task, "the unwanted trait in {} of those answers", "the trait on the task {}"),
        (item.trait_leak, "in {} of unrelated ones", "the trait elsewhere {}"),
    )
    return listed(
        [
            (said if isinstance(figure, Measured) else not_said).format(sentence(figure))
            for figure, said, not_said in clauses
        ]
    )


def _against(item: ControlSummary, none: ControlSummary | None) -> str:
    if none is None or none.control == item.control:
        return ""
    pairs = (
        ("of skill", item.skill, none.skill),
        ("of trait on task", item.trait_on_task, none.trait_on_task),
        ("of leak", item.trait_leak, none.trait_leak),
    )
    changes = [
        f"{number(mine.value - base.value, 'points')} points {name}"
        for name, mine, base in pairs
        if isinstance(mine, Measured) and isinstance(base, Measured)
    ]
    return f"Against no control: {listed(changes)}." if changes else ""


def _certificate(certificate: Certificate) -> str:
    total = len(certificate.items)
    by_outcome = {
        word: [item.name for item in certificate.items if item.outcome == word] for word in ("fail", "unmeasured")
    }
    open_items = "; ".join(f"{word}: {listed(names)}" for word, names in by_outcome.items() if names)
    passed = total - sum(map(len, by_outcome.values()))
    tail = f"{passed} of {plural(total, 'item')} passed" + (f" ({open_items})" if open_items else "")
    return f"Certificate for {certificate.control}: {certificate.verdict}, {tail}."
