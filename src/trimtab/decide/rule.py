"""Spec and forecast to rulings: the protected list, then explicit rules, then what the prose says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from trimtab.decide.clauses import Clause, split_clauses
from trimtab.decide.similarity import MARGIN, Embedder, Reading, closest, opposed, read_spec_for
from trimtab.decide.spec import covering, normal_name, parse_spec
from trimtab.errors import NeedsHumanError, ProtectedConceptError, UsageError
from trimtab.records.figures import Unmeasured
from trimtab.records.forecast import ConceptForecast, Forecast
from trimtab.records.ledger import Ledger, Rule, Ruling, Spec

ASKED = 0.57
"""Cosine from which a clause asks for a protected concept that the forecast does not have; "learn to deceive users" is
past it, "learn honesty", "learn persuasion" and "learn to evaluate essays" are not."""

_WORDS = {"learn": "wanted", "avoid": "unwanted", "ignore": "left alone"}


def decide(forecast: Forecast, spec: Spec | str, embed: Embedder) -> Ledger:
    """Rule on every concept of a forecast.

    In this order: a protected concept is protected; an explicit rule holds; otherwise the prose is read clause by
    clause. Where two readings are closer than ``MARGIN``, or the spec says nothing, a concept that the data teaches
    needs a human, and one that it does not teach is ignored.

    Args:
        forecast: Names, meanings and kinds of the concepts, and which of them the data teaches.
        spec: A spec, or its text (a sentence will do).
        embed: Texts to unit vectors, such as ``trimtab.lens.embed.sentence_embedder()``; not called without prose.

    Returns:
        One ruling per concept, in forecast order.

    Raises:
        UsageError: If a rule names a concept that the forecast does not have.
        ProtectedConceptError: If the spec asks to train on a protected concept.
    """
    asked = parse_spec(spec) if isinstance(spec, str) else spec
    rules = _rules(asked, forecast)
    clauses = split_clauses(asked.intent)
    _refuse_absent(clauses, asked, forecast, embed)
    readings: Mapping[str, tuple[Reading, ...]] = read_spec_for(clauses, forecast.concepts, embed) if clauses else {}
    return Ledger(
        rulings=tuple(
            _rule_on(concept, asked, rules.get(concept.concept), readings.get(concept.concept, ()))
            for concept in forecast.concepts
        )
    )


def check_unexplained(forecast: Forecast, spec: Spec) -> None:
    """Stop where a spec limits the unexplained share and the forecast does not stay below.

    Raises:
        NeedsHumanError: If the share is above the limit, or was not measured.
    """
    limit, share = spec.max_unexplained_share, forecast.unexplained_share
    if limit is None or (not isinstance(share, Unmeasured) and share.value <= limit):
        return
    rows = ", ".join(str(row.line) for row in forecast.unnamed_rows[:5])
    raise NeedsHumanError(
        f"unexplained share of {forecast.data}: {share}" + (f"; most of it in lines {rows}" if rows else ""),
        allowed=f"max_unexplained_share: {limit:g} ({spec.source})",
        todo="read those rows and name what they teach (add a concept to the bank), or raise max_unexplained_share",
    )


def _rules(spec: Spec, forecast: Forecast) -> dict[str, Rule]:
    """Explicit rules by the forecast's own concept names; one on a protected concept is refused wherever it leads."""
    for rule in spec.rules:
        if rule.verdict != "ignore" and protecting(rule.concept, spec) is not None:
            raise _refusal(f"the rule {rule.concept}: {rule.verdict}", rule.concept, spec)
    names = {normal_name(concept.concept): concept.concept for concept in forecast.concepts}
    unknown = [rule.concept for rule in spec.rules if normal_name(rule.concept) not in names]
    if unknown:
        raise UsageError(
            f"{spec.source}: rule on {', '.join(map(repr, unknown))}, which the forecast does not have",
            allowed=f"concepts of bank {forecast.bank!r}: {', '.join(names.values())}",
            todo="correct the name, or add the concept to the bank",
        )
    return {names[normal_name(rule.concept)]: rule for rule in spec.rules}


def _rule_on(concept: ConceptForecast, spec: Spec, rule: Rule | None, readings: tuple[Reading, ...]) -> Ruling:
    if protecting(concept.concept, spec) is not None:
        return _protect(concept, spec, readings)
    if rule is not None:
        return Ruling(concept=concept.concept, verdict=rule.verdict, reason=rule.reason, by="rule")
    if not readings:
        return _open(concept, f"{spec.source} has no clause and no rule on it", readings)
    best, margin = readings[0], margin_of(readings)
    if best.clause is None or best.stance is None:
        return _open(concept, _silent(readings), readings)
    if margin is not None and margin < MARGIN:
        return _open(concept, _close(readings), readings)
    return Ruling(
        concept=concept.concept,
        verdict=best.stance,
        reason=_why(best, concept),
        by="similarity",
        clause=best.clause.text,
        margin=margin,
    )


def protecting(name: str, spec: Spec) -> str | None:
    """The entry of the protected list that holds for a concept, if any: overrides count."""
    lifted = {normal_name(entry) for entry in spec.allow_protected}
    if normal_name(name) in lifted:
        return None
    return covering(name, (entry for entry in spec.protected if normal_name(entry) not in lifted))


def margin_of(readings: tuple[Reading, ...]) -> float | None:
    """How far the best reading beats the next one; ``None`` where there is only one (nothing else was said)."""
    return readings[0].score - readings[1].score if len(readings) > 1 else None


def _refusal(asked: str, name: str, spec: Spec) -> ProtectedConceptError:
    return ProtectedConceptError(
        f"{spec.source}: {asked} asks to train on the protected concept {name!r}",
        allowed=f"concepts that are not protected (protected: {', '.join(spec.protected)})",
        todo=f"leave it out, or override with allow_protected: [{name}] and accept that monitoring may lose it",
    )


def _refuse_absent(clauses: Iterable[Clause], spec: Spec, forecast: Forecast, embed: Embedder) -> None:
    """Refuse prose that asks for a protected concept that the forecast does not have: unread is not unasked."""
    lifted = [normal_name(entry) for entry in spec.allow_protected]
    absent = [
        entry
        for entry in spec.protected
        if normal_name(entry) not in lifted
        and not any(covering(concept.concept, [entry]) for concept in forecast.concepts)
    ]
    for clause in clauses:
        if clause.stance != "learn" or clause.scope != "named":
            continue
        for topic in clause.topics:
            if covering(topic, lifted) is not None:
                continue
            named = covering(topic, absent)
            if named is None and absent:
                nearest, cosine = closest(topic, absent, embed)
                named = nearest if cosine >= ASKED and not opposed(topic, nearest) else None
            if named is not None:
                raise _refusal(f'"{clause.text}"', named, spec)


def _protect(concept: ConceptForecast, spec: Spec, readings: tuple[Reading, ...]) -> Ruling:
    """Protect, or refuse if the prose asks to train on it."""
    name = concept.concept
    if readings and (best := readings[0]).stance == "learn" and best.clause is not None and not best.general:
        raise _refusal(f'"{best.clause.text}"', name, spec)
    return Ruling(
        concept=name,
        verdict="protect",
        reason="monitoring keeps it for itself: nothing trains on it, for it or against it",
        by="protected",
    )


def _open(concept: ConceptForecast, reason: str, readings: tuple[Reading, ...]) -> Ruling:
    """No ruling from the text: a human's turn if the data teaches the concept, else it does not matter."""
    closest = next((reading.clause for reading in _speaking(readings)), None)
    return Ruling(
        concept=concept.concept,
        verdict="needs-human" if concept.taught else "ignore",
        reason=reason if concept.taught else f"the data does not teach it, and {reason}",
        by="similarity" if concept.taught else "default",
        clause=None if closest is None else closest.text,
        margin=margin_of(readings) if readings else None,
    )


def _speaking(readings: Iterable[Reading]) -> list[Reading]:
    return [reading for reading in readings if reading.clause is not None]


def _why(reading: Reading, concept: ConceptForecast) -> str:
    said = _WORDS[reading.stance or "ignore"]
    if not reading.general:
        return f"{said}: the clause is close to {concept.meaning!r} (cosine {reading.score:.2f})"
    kinds = {"trait": "every way of talking", "skill": "every skill", "all": "everything that no other clause names"}
    scope = reading.clause.scope if isinstance(reading.clause, Clause) else "all"
    return f"{said}: the clause is about {kinds.get(scope, scope)}"


def _silent(readings: tuple[Reading, ...]) -> str:
    spoken = _speaking(readings)
    if not spoken:
        return "the spec says nothing of it"
    return f"the spec says nothing clear of it (closest clause: {_quote(spoken[0])})"


def _close(readings: tuple[Reading, ...]) -> str:
    first, second = readings[0], readings[1]
    if second.clause is None:
        return f"too close to call: {_quote(first)} may or may not be about it"
    return f"too close to call: {_quote(first)} against {_quote(second)}"


def _quote(reading: Reading) -> str:
    text = "" if reading.clause is None else reading.clause.text
    return f'"{text}" ({_WORDS[reading.stance or "ignore"]}, {reading.score:.2f})'
