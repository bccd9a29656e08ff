"""An HTML page taken apart by html.parser: what tests of reports look into."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from turbomim.train.report.report import report_page
from turbomim.train.report.run import read_runs

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


@dataclass
class Element:
    """A tag with its attributes, the elements in it, and all the text in it."""

    name: str
    attributes: dict[str, str | None]
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def all(self, name: str = "") -> list[Element]:
        """Every element below this one, or those of a name."""
        found = [deep for child in self.children for deep in [child, *child.all()]]
        return [element for element in found if not name or element.name == name]

    def id(self, value: str) -> Element | None:
        """The element with an id."""
        return next((e for e in self.all() if e.attributes.get("id") == value), None)


class Page(HTMLParser):
    """A page as a tree; `faults` has what is not well formed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.faults: list[str] = []
        self._open = [self.root]
        self.feed(text)
        self.close()
        self.faults += [f"<{element.name}> is not closed" for element in self._open[1:]]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open an element."""
        if len({name for name, _ in attrs}) < len(attrs):
            self.faults.append(f"<{tag}> has an attribute twice")
        element = Element(tag, dict(attrs))
        self._open[-1].children.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        """Close the element that was opened last."""
        if len(self._open) == 1 or self._open[-1].name != tag:
            self.faults.append(f"</{tag}> closes nothing, or something else")
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        """Add text to every open element."""
        for element in self._open:
            element.text += data


def page_of(*runs: Path, benchmarks: Path | None = None) -> Page:
    return Page(report_page(read_runs(runs), benchmarks))


def part(page: Page, name: str) -> Element:
    found = page.root.id(name)
    assert found is not None, name
    return found


def end_of(path: Path) -> str:
    """An absolute path as a page shows it."""
    return f"…/{path.parent.name}/{path.name}"


def cells(element: Element) -> list[list[str]]:
    return [[cell.text for cell in row.children] for row in element.all("tr")]
