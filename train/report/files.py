"""Files of a run that may be damaged: what can be read of them, and a line about what cannot."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from turbomim.pipeline.system.errors import one_line
from turbomim.pipeline.system.remedies import explain

Numbers = dict[str, float]
Tree = dict[str, Any]

# beyond this a number is damage, and would overflow in a plot
MOST = 1e30


def text_lines(path: Path, problems: list[str]) -> list[str]:
    """Lines of a file, the last one empty or cut short; none if the file is not there."""
    try:
        # a pipe of that name would never end
        if not path.is_file():
            return []
        return path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        problems.append(f"{path} cannot be read: {explain(error, 'check the permissions')}")
        return []


def json_lines(path: Path, problems: list[str]) -> list[Tree]:
    """The objects of a file of JSON lines; lines that are none, but for the last, are one problem."""
    found, bad = [], []
    lines = text_lines(path, problems)
    for number, line in enumerate(lines, start=1):
        try:
            tree = json.loads(line)
        except (ValueError, RecursionError):
            tree = None
        if isinstance(tree, dict):
            found.append(tree)
        elif line.strip() and number < len(lines):
            bad.append(number)
    if bad:
        problems.append(f"{path}: {len(bad)} of its lines are not JSON objects, line {bad[0]} first")
    return found


def json_object(path: Path, problems: list[str]) -> Tree:
    """The object of a JSON file; empty if the file is not there, or damaged."""
    try:
        if not path.is_file():
            return {}
        tree = json.loads(path.read_bytes())
        if isinstance(tree, dict):
            return tree
        problems.append(f"{path} is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path} cannot be read: {one_line(error, 300)}")
    return {}


def json_objects(folder: Path, problems: list[str]) -> dict[str, Tree]:
    """The objects of a folder's JSON files by name without .json, in its order."""
    found = {path.stem: json_object(path, problems) for path in sorted(folder.glob("*.json"))}
    return {name: tree for name, tree in found.items() if tree}


def numbers(tree: Mapping[str, Any]) -> Numbers:
    """What of a record is a finite number."""
    return {k: v for k, v in tree.items() if isinstance(v, int | float) and -MOST < v < MOST}
