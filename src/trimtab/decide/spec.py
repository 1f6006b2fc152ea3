"""Specs from text: a plain sentence, Markdown (with front matter, settings blocks and sections) or YAML.

YAML is read node by node, not into Python objects: every complaint names its line, keys may not repeat, and words such
as ``no`` stay words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import yaml

from trimtab.errors import UsageError
from trimtab.records.ledger import Rule, Spec

KEYS = ("intent", "rules", "protected", "allow_protected", "max_unexplained_share")
VERDICTS: Mapping[str, Literal["learn", "avoid", "ignore"]] = {"learn": "learn", "avoid": "avoid", "ignore": "ignore"}
_RULE_KEYS = ("concept", "verdict", "reason")
_FRONT = re.compile(r"\A---[ \t]*\n(?P<body>.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_FENCE = re.compile(r"^```[ \t]*ya?ml[ \t]*\n(?P<body>.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE | re.IGNORECASE)
_SECTION = re.compile(
    r"^#{1,6}[ \t]+(?P<title>[^\n]+?)[ \t]*#*[ \t]*\n(?P<body>.*?)(?=^#{1,6}[ \t]|\Z)", re.DOTALL | re.MULTILINE
)
_ITEM = re.compile(r"[ \t]*(?:[-*+]|\d+[.)])[ \t]+(?P<text>.+?)[ \t]*")
_TODO = "correct it; docs/how-to/decide.md shows every form"


def read_spec(path: str | Path) -> Spec:
    """Read a spec file: YAML by the endings ``.yaml`` and ``.yml``, Markdown or plain text otherwise.

    Raises:
        UsageError: If the file cannot be read, or as ``parse_spec``.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read the spec {file}: {error.strerror if isinstance(error, OSError) else error}",
            allowed="a Markdown, YAML or plain-text file in UTF-8",
            todo="check the path, or write what is wanted into such a file in plain words",
        ) from error
    return parse_spec(text, str(file))


def parse_spec(text: str, source: str = "<spec>") -> Spec:
    """Read a spec from text.

    Args:
        text: A plain sentence, Markdown or YAML. What it lists as protected is added to the default list.
        source: Where it came from; an ending ``.yaml`` or ``.yml`` makes it YAML, as does a first line with a key.

    Raises:
        UsageError: Names source and line: unknown or repeated keys, values of the wrong form, rules that contradict
            each other, an empty spec.
    """
    flat = text.removeprefix("\ufeff").replace("\r\n", "\n")
    draft = _Draft(source=source)
    is_yaml = source.lower().endswith((".yaml", ".yml"))
    if is_yaml or re.match(rf"(?:\s*#[^\n]*\n|\s)*(?:{'|'.join(KEYS)})[ \t]*:", flat):
        draft.settings(flat, first_line=1)
    else:
        draft.markdown(flat)
    return draft.finish()


def normal_name(name: str) -> str:
    """A concept name for comparison: case, underscores, hyphens and spaces do not count."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def covering(name: str, protected: Iterable[str]) -> str | None:
    """The protected entry that covers a concept, if any: all of its words are in the concept's name."""
    words = set(normal_name(name).split())
    return next((entry for entry in protected if set(normal_name(entry).split()) <= words), None)


def _blank(match: re.Match[str]) -> str:
    """As many lines with nothing on them."""
    return "\n" * match[0].count("\n")


@dataclass
class _Draft:
    """A spec being put together; knows where each part came from."""

    source: str
    intent: str = ""
    rules: list[Rule] = field(default_factory=list[Rule])
    names: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    limit: float | None = None
    seen: dict[str, int] = field(default_factory=dict[str, int])

    def fault(self, line: int, what: str, allowed: str) -> UsageError:
        return UsageError(f"{self.source}:{line}: {what}", allowed=allowed, todo=_TODO)

    def markdown(self, text: str) -> None:
        """Front matter, settings blocks and sections out; what is left is the prose. Line numbers are kept."""
        for pattern in (_FRONT, _FENCE):
            for match in pattern.finditer(text):
                self.settings(match["body"], first_line=text.count("\n", 0, match.start("body")) + 1)
            text = pattern.sub(_blank, text)
        for match in reversed(list(_SECTION.finditer(text))):
            key = normal_name(match["title"]).replace(" ", "_")
            if key in KEYS and key != "intent":
                self._section(key, match["body"], text.count("\n", 0, match.start("body")) + 1)
                text = text[: match.start()] + _blank(match) + text[match.end() :]
        prose = re.sub(r"\n{3,}", "\n\n", text).strip()
        self.intent = "\n\n".join(part for part in (self.intent, prose) if part)

    def _section(self, key: str, body: str, first_line: int) -> None:
        """The list (or the number) under a heading such as ``## Rules``."""
        self._once(key, first_line - 1)
        entries: list[tuple[int, str]] = []
        for line, raw in enumerate(body.splitlines(), first_line):
            item = _ITEM.fullmatch(raw)
            if raw.strip():
                if item is None and key != "max_unexplained_share":
                    raise self.fault(line, f"{raw.strip()!r} under {key!r}", "a list: one '- entry' per line")
                entries.append((line, re.sub(r"[`*]", "", item["text"] if item else raw.strip())))
        if key == "rules":
            for line, entry in entries:
                concept, _, rest = entry.partition(":")
                verdict, _, reason = rest.strip().partition(" ")
                self.rule(line, concept.strip(), verdict.strip(",;:"), reason.strip(" ()—–-,;:"))
        elif key == "max_unexplained_share":
            line, entry = entries[0] if len(entries) == 1 else (first_line - 1, "")
            self.share(line, entry)
        else:
            self.names[key] = tuple(entry for _, entry in entries)

    def settings(self, text: str, first_line: int) -> None:
        """A YAML mapping with spec keys."""
        root = self._compose(text, first_line)
        if root is None:
            return
        for key, line, value in self._pairs(root, first_line, KEYS):
            self._once(key, line)
            if key == "intent":
                self.intent = self._scalar(value, first_line, key)
            elif key == "rules":
                self._rules(value, first_line)
            elif key == "max_unexplained_share":
                word = self._scalar(value, first_line, key)
                if word.lower() not in ("", "null", "none", "~"):
                    self.share(line, word)
            elif isinstance(value, yaml.SequenceNode):
                items = cast("list[yaml.Node]", value.value)
                self.names[key] = tuple(self._scalar(item, first_line, key) for item in items)
            else:
                raise self.fault(line, f"{key} is not a list", f"{key}: [CONCEPT, ...]")

    def _compose(self, text: str, first_line: int) -> yaml.Node | None:
        try:
            return yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = first_line + (mark.line if isinstance(mark, yaml.Mark) else 0)
            problem = str(getattr(error, "problem", None) or error)
            raise self.fault(line, f"not YAML: {problem}", "a YAML mapping with the keys " + ", ".join(KEYS)) from error

    def _pairs(
        self, node: yaml.Node, first_line: int, keys: tuple[str, ...] | None
    ) -> list[tuple[str, int, yaml.Node]]:
        """Key, line and value of a mapping; unknown and repeated keys are refused."""
        line = first_line + node.start_mark.line
        if not isinstance(node, yaml.MappingNode):
            raise self.fault(
                line, "not a mapping", "KEY: VALUE" + (f" with the keys {', '.join(keys)}" if keys else "")
            )
        found: list[tuple[str, int, yaml.Node]] = []
        for key_node, value in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            key, at = self._scalar(key_node, first_line, "key"), first_line + key_node.start_mark.line
            if keys is not None and key not in keys:
                raise self.fault(at, f"unknown key {key!r}", "the keys " + ", ".join(keys))
            if any(key == other for other, _, _ in found):
                raise self.fault(at, f"key {key!r} stands twice", "each key once")
            found.append((key, at, value))
        return found

    def _scalar(self, node: yaml.Node, first_line: int, what: str) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self.fault(first_line + node.start_mark.line, f"{what} is not plain text", "one word or line of text")
        return str(node.value).strip()

    def _rules(self, node: yaml.Node, first_line: int) -> None:
        """``{CONCEPT: VERDICT}``, ``{CONCEPT: {verdict, reason}}``, or a list of either form or of whole rules."""
        if isinstance(node, yaml.SequenceNode):
            for item in cast("list[yaml.Node]", node.value):
                pairs = self._pairs(item, first_line, None)
                if {"concept", "verdict"} <= {key for key, _, _ in pairs}:
                    self._whole_rule(item, first_line)
                else:
                    self._rules(item, first_line)
            return
        for concept, line, value in self._pairs(node, first_line, None):
            if isinstance(value, yaml.MappingNode):
                self._whole_rule(value, first_line, concept)
            else:
                self.rule(line, concept, self._scalar(value, first_line, "verdict"))

    def _whole_rule(self, node: yaml.Node, first_line: int, concept: str = "") -> None:
        keys = _RULE_KEYS if not concept else _RULE_KEYS[1:]
        parts = {key: self._scalar(value, first_line, key) for key, _, value in self._pairs(node, first_line, keys)}
        line = first_line + node.start_mark.line
        self.rule(line, concept or parts["concept"], parts.get("verdict", ""), parts.get("reason", ""))

    def rule(self, line: int, concept: str, verdict: str, reason: str = "") -> None:
        """Add an explicit rule."""
        said = verdict.lower()
        if said not in VERDICTS:
            hint = " (list it under protected)" if said == "protect" else ""
            raise self.fault(line, f"rule {concept!r} has the verdict {verdict!r}{hint}", " or ".join(VERDICTS))
        if not concept:
            raise self.fault(line, "a rule without a concept", "CONCEPT: VERDICT")
        if any(rule.concept.casefold() == concept.casefold() for rule in self.rules):
            raise self.fault(line, f"a second rule on {concept!r}", "one rule per concept")
        given = {"reason": reason} if reason else {}
        self.rules.append(Rule(concept=concept, verdict=VERDICTS[said], **given))

    def share(self, line: int, text: str) -> None:
        """Set the limit on the unexplained share."""
        percent = text.endswith("%")
        try:
            value = float(text.rstrip("% ")) / (100 if percent else 1)
        except ValueError:
            value = float("nan")
        if not 0 <= value <= 1:
            raise self.fault(line, f"max_unexplained_share is {text!r}", "a number from 0 to 1, or a percentage")
        self.limit = value

    def _once(self, key: str, line: int) -> None:
        if key in self.seen:
            raise self.fault(line, f"{key!r} was already given in line {self.seen[key]}", "each key once")
        self.seen[key] = line

    def finish(self) -> Spec:
        """Check the whole and freeze it."""
        protected = tuple(dict.fromkeys((*Spec(intent="").protected, *self.names.get("protected", ()))))
        allowed = self.names.get("allow_protected", ())
        stray = [name for name in allowed if covering(name, protected) is None]
        if stray:
            raise self.fault(
                self.seen["allow_protected"],
                f"allow_protected names {', '.join(stray)}, which is not protected",
                f"protected concepts: {', '.join(protected)}",
            )
        if not re.search(r"\w", self.intent) and not self.rules:
            raise self.fault(1, "an empty spec", "a sentence that says what is wanted, or at least one rule")
        return Spec(
            intent=self.intent,
            rules=tuple(self.rules),
            protected=protected,
            allow_protected=allowed,
            max_unexplained_share=self.limit,
            source=self.source,
        )
