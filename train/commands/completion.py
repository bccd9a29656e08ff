"""`turbomim --print-completion bash|zsh`: a script that completes commands, recipes, flags and their values.

The script is a table: at TAB no Python is started.  Where it has nothing to offer, the shell offers files.
"""

from collections.abc import Iterable
from typing import Final

from turbomim.pipeline.system.errors import UsageError
from turbomim.train.commands.table import COMMANDS, GROUPS, imported, options_of, verbs
from turbomim.train.machine.presets import PRESETS
from turbomim.train.recipes.table import RECIPES
from turbomim.train.recipes.title import METHODS
from turbomim.train.settings.known_flags import Flags, flags_of, settings_of

# What a shell tells of the line: word, which is completed; place, of the word (the command's is 1); before,
# the word before it, of --flag=value the flag; name, the command.  list: the words that it is to offer.
BASH: Final = """# turbomim for bash; in ~/.bashrc: eval "$(turbomim --print-completion bash)"
_turbomim() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} place=$COMP_CWORD list=
    local name=${{COMP_WORDS[1]}} second=${{COMP_WORDS[2]}}
    # bash makes three words of --flag=value
    if [[ $word == "=" ]]; then word=
    elif [[ $before == "=" ]]; then before=${{COMP_WORDS[COMP_CWORD-2]}}; fi
{body}
    COMPREPLY=($(compgen -W "$list" -- "$word"))
}}
complete -o default -F _turbomim turbomim"""

ZSH: Final = """#compdef turbomim
# turbomim for zsh; a file _turbomim of $fpath, or after compinit eval "$(turbomim --print-completion zsh)"
_turbomim() {{
    local word=${{words[CURRENT]}} before=${{words[CURRENT-1]}} place=$((CURRENT-1)) list=
    local name=${{words[2]}} second=${{words[3]}}
    if [[ $word == --*=* ]]; then before=${{word%%=*}}; word=${{word#*=}}; compset -P '*='; fi
{body}
    if [[ -n $list ]]; then compadd -M 'm:_=-' -- ${{=list}}; else _files; fi
}}
if [[ ${{funcstack[1]}} == _turbomim ]]; then _turbomim "$@"; else compdef _turbomim turbomim; fi"""

SHELLS: Final = {"bash": BASH, "zsh": ZSH}

# the values of flags whose type does not list them
LISTED: Final = {
    "--recipe": tuple(RECIPES),
    "--preset": tuple(PRESETS),
    "--model.method": tuple(METHODS),
}

# what may stand in a command's place
FIRST: Final = ("help", "--help", "--version", "--traceback", "--print-completion")


def completion_script(shell: str) -> str:
    """The script for a shell.  Raises UsageError for another than bash and zsh."""
    if shell not in SHELLS:
        raise UsageError(f"--print-completion {shell}: must be {' or '.join(SHELLS)}")
    return SHELLS[shell].format(body=_body())


def flags_by_command() -> dict[str, Flags]:
    """The flags of every command, its own and settings; imports no torch."""
    return {
        name: flags_of(options_of(name))
        | (settings_of(imported(command.settings)) if command.settings else {})
        for name, command in COMMANDS.items()
    }


def _body() -> str:
    """The table in words that both shells read: first the commands, then values, recipes, flags."""
    flags = {
        # the RECIPE is given by its name alone
        name: {flag: LISTED.get(flag, words) for flag, words in of.items() if flag != "--run.recipe"}
        for name, of in flags_by_command().items()
    }
    firsts = dict.fromkeys(name.split()[0] for name in COMMANDS)
    values = {
        # a setting is the same of all commands
        f"* {flag}" if "." in flag else f"{name} {flag}": choices
        for name, of in flags.items()
        for flag, choices in of.items()
        if choices
    }
    of_recipes = [
        name for name, command in COMMANDS.items() if "RECIPE" in command.words or name == "recipes"
    ]
    return "\n".join(
        [
            # a setting may be typed as YAML has it, --optim.base_lr
            "    before=${before//_/-}",
            "    if [[ $word == --* ]]; then word=${word//_/-}; fi",
            f'    if [[ $place == 1 ]]; then list="{" ".join((*firsts, *FIRST))}"',
            f'    elif [[ $name == help && $place == 2 ]]; then list="{" ".join(firsts)}"',
            '    elif [[ $name == --print-completion ]]; then list="bash zsh"',
            "    else",
            # the second word of a group belongs to the name
            "        case $name in",
            f'            {"|".join(GROUPS)}) name="$name $second"; ((place -= 1));;',
            "        esac",
            "        if [[ $place == 1 ]]; then",
            "            case ${name%% *} in",
            *(f'                {group}) list="{" ".join(verbs(group))}";;' for group in GROUPS),
            "            esac",
            "        else",
            '            case "$name $before" in',
            *_cases(values),
            "            esac",
            "            if [[ -z $list && $place == 2 && $word != -* ]]; then",
            "                case $name in",
            *_cases(dict.fromkeys(of_recipes, tuple(RECIPES))),
            "                esac",
            "            elif [[ -z $list && $word == -* ]]; then",
            "                case $name in",
            *_cases({name: (*sorted(of, key=_is_setting), "--help") for name, of in flags.items()}),
            "                esac",
            "            fi",
            "        fi",
            "    fi",
        ]
    )


def _cases(lists: dict[str, tuple[str, ...]]) -> Iterable[str]:
    """A line for each list of words to offer, with all the patterns that it is for."""
    patterns: dict[tuple[str, ...], list[str]] = {}
    for pattern, words in lists.items():
        patterns.setdefault(words, []).append(_quoted(pattern))
    return (f'                {"|".join(of)}) list="{" ".join(words)}";;' for words, of in patterns.items())


def _is_setting(flag: str) -> bool:
    return "." in flag


def _quoted(pattern: str) -> str:
    any_command = "*" * pattern.startswith("* ")
    return f'{any_command}"{pattern.removeprefix(any_command)}"' if " " in pattern else pattern
