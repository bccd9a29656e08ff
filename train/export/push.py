"""Exports to the Hugging Face Hub: a folder's files into a repository, private unless said otherwise."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from turbomim import __version__
from turbomim.pipeline.system.errors import UsageError, UserError, without_password
from turbomim.train.export import model_card
from turbomim.train.foreign.hub import TIMEOUT, bars_on_terminals, client, ending_silence, hub_error

# the programs that load from the Hub
PROGRAMS: Final = ("timm", "hf")
# what the Hub takes; source: huggingface_hub's validators
_PART: Final = r"[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*"
_NAME: Final = re.compile(f"{_PART}/{_PART}")
_MOST_LETTERS: Final = 96


def check_push(repository: str, to: str) -> None:
    """Raise UserError if an export for a program cannot go there, before any work is done."""
    from huggingface_hub import get_token

    if to not in PROGRAMS:
        raise UsageError(
            f"--push {repository}: {to} is not loaded from the Hub: give --to {'|'.join(PROGRAMS)}"
        )
    if not _NAME.fullmatch(repository) or len(repository) > _MOST_LETTERS:
        raise UsageError(
            f"--push {repository!r}: must be USER/NAME, at most {_MOST_LETTERS} of a-z, A-Z, 0-9, _ and, "
            "not at an end nor two together, - and ."
        )
    if not get_token():
        raise UserError(f"--push {repository}: no token is stored here: run `hf auth login`, or set HF_TOKEN")


@bars_on_terminals()
def push_folder(
    folder: Path, files: Collection[str], cards: Mapping[str, bytes], repository: str, *, public: bool
) -> str:
    """Put files of a folder into a repository, which is made if it is not there, in one commit; its URL.

    cards: what takes the place of some of the files there; repository: USER/NAME.  Raises UserError, a line:
    no permission, a repository that is there and is public without `public`, or private with it, somebody
    else's README.md in it, no network, a hub that no longer answers.
    """
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.errors import RepositoryNotFoundError

    api = client()
    what = f"{folder} is not pushed to {repository}"
    try:
        with ending_silence(what, repository):
            try:
                about = api.model_info(repository, timeout=TIMEOUT)
            except RepositoryNotFoundError:
                api.create_repo(repository, private=not public)
                about = api.model_info(repository, timeout=TIMEOUT)
            if not about.private and not public:
                raise UserError(
                    f"{what}: everybody can see it: give --public if that is meant, or another name"
                )
            if about.private and public:
                raise UserError(
                    f"{what}: it is private: make it public in its settings, or leave --public out"
                )
            if "README.md" in [each.rfilename for each in about.siblings or []]:
                card = Path(api.hf_hub_download(repository, "README.md", revision=about.sha))
                if not model_card.is_ours(card):
                    raise UserError(f"{what}: its README.md is no model card of ours: give another name")
            api.create_commit(
                repository,
                [CommitOperationAdd(name, cards.get(name, folder / name)) for name in files],
                commit_message=f"Export by turbomim {__version__}",
            )
    except Exception as error:
        raise hub_error(error, what, repository) from error
    return f"{without_password(api.endpoint)}/{repository}"
