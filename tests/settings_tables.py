"""The tables of settings in docs/configuration.md, made of the dataclasses.

`python -m tests.settings_tables docs/configuration.md` writes them anew.  A setting's words are the comment
above its field, which `pretrain --help` shows too.
"""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from turbomim.train.settings.dictionary import FREE
from turbomim.train.settings.finetune import FinetuneConfig

BEGIN = "<!-- settings: python -m tests.settings_tables docs/configuration.md -->\n"
END = "<!-- end of the settings -->\n"
KINDS = {int: "whole number", float: "number", bool: "true, false", str: "text"}


def comments(kind: type[Any]) -> dict[str, str]:
    """The comment above each field of a dataclass."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in inspect.getsource(kind).splitlines():
        text = line.strip()
        if text.startswith("# "):
            above.append(text[2:])
            continue
        if (field := re.match(r"(\w+): .+ = ", text)) and above:
            found[field[1]] = " ".join(above)
        above = []
    return found


def table(section: str, kind: type[Any]) -> str:
    """A section as a table: every setting, its default, what it may be, what it does."""
    types, words = get_type_hints(kind), comments(kind)
    rows = [f"### {section}\n", f"{(kind.__doc__ or '').splitlines()[0]}\n"]
    rows += ["| setting | default | values | |", "| --- | --- | --- | --- |"]
    for field in fields(kind):
        hint = types[field.name]
        values = ", ".join(get_args(hint)) if get_origin(hint) is Literal else KINDS[hint]
        default = str(field.default).lower() if isinstance(field.default, bool) else f"{field.default}"
        free = " *Free.*" if f"{section}.{field.name}" in FREE else ""
        text = words[field.name].replace("|", "\\|")
        shown = f"`{default}`" if default else "empty"
        rows.append(f"| `{section}.{field.name}` | {shown} | {values} | {text}.{free} |")
    return "\n".join(rows) + "\n"


def tables() -> str:
    """All sections, fine-tuning's last."""
    kinds = get_type_hints(FinetuneConfig)
    return "\n".join(table(field.name, kinds[field.name]) for field in fields(FinetuneConfig))


def with_tables(page: str) -> str:
    """The page with the tables as they are now."""
    head, rest = page.split(BEGIN)
    return f"{head}{BEGIN}\n{tables()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    (target,) = map(Path, sys.argv[1:])
    target.write_text(with_tables(target.read_text(encoding="utf-8")), encoding="utf-8")
