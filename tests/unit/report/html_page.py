"""A strict reader of the pages: every element closed in order, text and attributes kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "br", "hr", "link", "input", "img"}
SVG_LEAVES = {"rect", "line", "circle", "polyline"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self, tag: str | None = None, class_: str | None = None) -> list[Element]:
        found = [c for child in self.children for c in child.all(tag, class_)]
        mine = (tag is None or self.tag == tag) and (
            class_ is None or class_ in self.attributes.get("class", "").split()
        )
        return [self, *found] if mine else found

    def words(self) -> str:
        return " ".join(self.text.split())


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("root", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"attribute twice in <{tag}>: {names}"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SVG_LEAVES or tag == "svg", f"<{tag}/> does not close itself in HTML"
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data


def read_page(path: Path) -> Element:
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert len(reader.open) == 1, f"never closed: {[e.tag for e in reader.open]}"
    return reader.root


def by_id(page: Element, name: str) -> Element | None:
    return next((element for element in page.all() if element.attributes.get("id") == name), None)


def section(page: Element, name: str) -> Element:
    found = by_id(page, name)
    assert found is not None, f"no section {name}"
    return found
