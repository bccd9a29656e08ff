"""What `turbomim --help` and `turbomim GROUP --help` print."""

from collections.abc import Iterable
from typing import Final

from turbomim.train.commands.table import COMMANDS, GROUPS, verbs

# letters of a line before what the command is for
LEFT: Final = 30
INDENT: Final = " " * (LEFT + 2)
# groups whose commands stand in the overview one by one; of the others, their names
SPELT_OUT: Final = ("shard", "eval")

NOTES: Final = """`turbomim COMMAND --help` lists a command's flags; `turbomim pretrain --help` every setting.
`turbomim --version` says the version; `turbomim --print-completion bash|zsh` a script for completion at TAB.
What a user or a file caused ends in one line; with --traceback the whole error stands before it."""


def overview() -> str:
    """All commands, a line each, in the order of the table."""
    lines: dict[str, str] = {}
    for name, command in COMMANDS.items():
        group = name.split()[0]
        if group in GROUPS and group not in SPELT_OUT:
            lines[f"{group} {'|'.join(verbs(group))}"] = GROUPS[group]
        else:
            lines[f"{name} {command.words}"] = command.about
    return f"usage: turbomim COMMAND …\n\n{_listed(lines.items())}\n\n{NOTES}"


def group_overview(group: str) -> str:
    """The commands of a group, a line each."""
    named = ((verb, COMMANDS[f"{group} {verb}"]) for verb in verbs(group))
    listed = _listed((f"{verb} {command.words}", command.about) for verb, command in named)
    return (
        f"usage: turbomim {group} COMMAND …\n\n{GROUPS[group]}\n\n{listed}\n\n"
        f"`turbomim {group} COMMAND --help` lists the flags of one."
    )


def _listed(lines: Iterable[tuple[str, str]]) -> str:
    """(what is typed, what it is for) in two columns; what is too long for the first stands alone."""
    listed = []
    for words, about in lines:
        typed = words.rstrip()
        listed.append(f"  {typed:<{LEFT}}{about}" if len(typed) < LEFT else f"  {typed}\n{INDENT}{about}")
    return "\n".join(listed)
