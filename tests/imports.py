"""The import graph of Python files, read from their text: nothing is imported to find out."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Set
from pathlib import Path

# the dotted names that each file imports, and the files and folders that these are, by path from the root
Names = Mapping[str, Set[str]]
Graph = Mapping[str, Set[str]]


def read(root: Path, *folders: str) -> dict[str, set[str]]:
    """The dotted names that each Python file of some folders imports, wherever in the file.

    Imports in functions and under TYPE_CHECKING count too.  A relative one begins with its dots.
    """
    names: dict[str, set[str]] = {}
    for path in sorted(path for folder in folders for path in (root / folder).rglob("*.py")):
        found = names.setdefault(path.relative_to(root).as_posix(), set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                found.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def graph(names: Names) -> dict[str, set[str]]:
    """The files, and folders, among those that were read which each file imports.

    `turbomim.x.y` and `x.y` are both x/y.py.  Of `from turbomim.x import y` y may be a file or a name in one.
    """
    folders = {str(parent) for file in names for parent in Path(file).parents} - {"."}

    def find(name: str) -> str | None:
        parts = name.removeprefix("turbomim.").split(".")
        for count in range(len(parts), 0, -1):
            path = "/".join(parts[:count])
            for place in (f"{path}.py", f"{path}/__init__.py"):
                if place in names:
                    return place
            if path in folders:
                return path
        return None

    return {file: {p for name in found if (p := find(name)) and p != file} for file, found in names.items()}


def circles(imports: Graph) -> list[list[str]]:
    """Files that import each other, directly or through others: each circle once, its files in order."""
    left = dict(imports)
    while ends := [file for file, found in left.items() if not found & left.keys()]:
        for file in ends:
            del left[file]
    reached: dict[str, set[str]] = {}
    for file in left:
        waiting, seen = [file], reached.setdefault(file, set())
        while waiting:
            new = (left[waiting.pop()] & left.keys()) - seen
            seen |= new
            waiting += new
    found = {frozenset(b for b in seen if a in reached[b]) for a, seen in reached.items() if a in seen}
    return sorted(sorted(circle) for circle in found)
