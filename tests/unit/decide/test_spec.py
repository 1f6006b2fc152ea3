from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.decide.clauses import split_clauses
from trimtab.decide.spec import parse_spec, read_spec
from trimtab.errors import UsageError
from trimtab.records.ledger import Rule, Spec

DEFAULT = Spec(intent="").protected


def test_a_plain_sentence() -> None:
    assert parse_spec("Learn the sums.") == Spec(intent="Learn the sums.", source="<spec>")


MARKDOWN = """---
max_unexplained_share: 0.3
---
# Our spec

Learn the sums. Avoid the flattery.

## Rules

- pirate: avoid (it is silly)
- `facts`: learn

## Protected

- scheming

## Notes

Ignore the emoji.

```yaml
allow_protected: [deception]
```
"""


def test_markdown_with_every_part() -> None:
    spec = parse_spec(MARKDOWN, "spec.md")
    assert spec.rules == (
        Rule(concept="pirate", verdict="avoid", reason="it is silly"),
        Rule(concept="facts", verdict="learn"),
    )
    assert spec.protected == (*DEFAULT, "scheming")
    assert spec.allow_protected == ("deception",)
    assert spec.max_unexplained_share == 0.3
    assert spec.source == "spec.md"
    assert [clause.stance for clause in split_clauses(spec.intent)] == ["learn", "avoid", "ignore"]


@pytest.mark.parametrize(
    "rules",
    [
        "rules: {pirate: avoid}",
        "rules:\n  pirate: avoid",
        "rules:\n- pirate: avoid",
        "rules:\n- {concept: pirate, verdict: avoid}",
        "rules:\n  pirate: {verdict: AVOID}",
    ],
)
def test_yaml_rules_in_every_form(rules: str) -> None:
    spec = parse_spec(f"intent: Learn the sums.\n{rules}\n", "spec.yaml")
    assert spec.intent == "Learn the sums."
    assert spec.rules == (Rule(concept="pirate", verdict="avoid"),)


def test_yaml_is_known_by_its_first_key_too() -> None:
    assert parse_spec("# ours\nintent: |\n  Learn.\n  Avoid the puns.\n").intent == "Learn.\nAvoid the puns."


def test_a_concept_named_no_stays_a_name() -> None:
    assert parse_spec("rules: {no: avoid}").rules[0].concept == "no"


@pytest.mark.parametrize(
    ("text", "source", "where"),
    [
        ("intent: x\nrule: {}\n", "s.yaml", r"s\.yaml:2: unknown key 'rule'.*\n.*intent, rules"),
        ("---\n\nprotect: [a]\n---\nLearn.", "s.md", r"s\.md:3: unknown key 'protect'"),
        ("Learn.\n\n```yaml\nrules:\n  a: maybe\n```\n", "s.md", r"s\.md:5: rule 'a' has the verdict 'maybe'"),
        ("Learn.\n## Rules\n\n- a: protect\n", "s.md", r"s\.md:4: .*list it under protected"),
        ("Learn.\n## Rules\nsome prose\n", "s.md", r"s\.md:3: 'some prose' under 'rules'"),
        ("intent: a\nintent: b\n", "s.yaml", r"s\.yaml:2: key 'intent' stands twice"),
        (
            "---\nprotected: [a]\n---\nx\n## Protected\n- b\n",
            "s.md",
            r"s\.md:5: 'protected' was already given in line 2",
        ),
        ("intent: x\nrules:\n- {a: learn}\n- {A: avoid}\n", "s.yaml", r"s\.yaml:4: a second rule on 'A'"),
        ("intent: x\nrules:\n- {concept: a, verdict: learn, why: b}\n", "s.yaml", r"s\.yaml:3: unknown key 'why'"),
        ("intent: x\nmax_unexplained_share: 3\n", "s.yaml", r"s\.yaml:2: max_unexplained_share is '3'"),
        ("intent: x\nmax_unexplained_share: nan\n", "s.yaml", r"s\.yaml:2"),
        ("intent: x\nprotected: a\n", "s.yaml", r"s\.yaml:2: protected is not a list"),
        ("intent: x\nprotected: [{a: b}]\n", "s.yaml", r"s\.yaml:2: protected is not plain text"),
        ("intent: x\nallow_protected: [jokes]\n", "s.yaml", r"s\.yaml:2: allow_protected names jokes"),
        ("intent: [x\n", "s.yaml", r"s\.yaml:\d: not YAML"),
        ("- a\n- b\n", "s.yaml", r"s\.yaml:1: not a mapping"),
        ("", "s.md", r"s\.md:1: an empty spec"),
        ("intent: ' '\n", "s.yaml", r"s\.yaml:1: an empty spec"),
    ],
)
def test_faults_name_their_line(text: str, source: str, where: str) -> None:
    with pytest.raises(UsageError, match=where):
        parse_spec(text, source)


def test_a_share_in_per_cent() -> None:
    assert parse_spec("Learn.\n\n## Max unexplained share\n\n25%\n").max_unexplained_share == 0.25


def test_an_override_of_a_longer_name_is_allowed() -> None:
    spec = parse_spec("intent: x\nallow_protected: [strategic deception]\n")
    assert spec.allow_protected == ("strategic deception",)


def test_listing_protected_concepts_never_unprotects_the_others() -> None:
    assert set(DEFAULT) < set(parse_spec("intent: x\nprotected: [scheming]\n").protected)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "spec.md"
    path.write_bytes("\ufeffLearn the sums.\r\nAvoid puns.\r\n".encode())
    assert read_spec(path) == Spec(intent="Learn the sums.\nAvoid puns.", source=str(path))
    with pytest.raises(UsageError, match=r"cannot read the spec .*absent\.md: No such file"):
        read_spec(tmp_path / "absent.md")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        read_spec(path)


@settings(deadline=None)
@given(st.text(alphabet="ab:-#\n` {}[]yml,\"'&*!|>%@", max_size=80), st.sampled_from(["s.md", "s.yaml"]))
def test_any_text_is_a_spec_or_a_usage_error(text: str, source: str) -> None:
    try:
        spec = parse_spec(text, source)
    except UsageError as error:
        message = str(error)
    else:
        message = f"{source}:" if spec.intent or spec.rules else "an empty spec"
    assert message.startswith(f"{source}:")


def test_the_examples_of_the_guide_are_specs() -> None:
    guide = Path(__file__).parents[3] / "docs" / "how-to" / "decide.md"
    blocks = re.findall(r"^```(markdown|yaml)\n(.*?)^```$", guide.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    first, second = (parse_spec(text, f"guide.{'md' if kind == 'markdown' else 'yaml'}") for kind, text in blocks)
    assert [rule.concept for rule in first.rules] == [rule.concept for rule in second.rules] == ["flattery"]
    assert first.protected == second.protected == (*DEFAULT, "power seeking")
    assert [clause.stance for clause in split_clauses(first.intent)] == ["learn", "avoid", "ignore"]
