"""Exports to the Hugging Face Hub: a folder's files into a repository, private unless said otherwise."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from turbomim import __version__
from turbomim.pipeline.system.errors import UsageError, UserError, without_password
from turbomim.train.export import model_card
from turbomim.train.foreign.hub import NAME, TIMEOUT, client, hub_error

# the programs that load from the Hub
PROGRAMS: Final = ("timm", "hf")


def check_push(repository: str, to: str) -> None:
    """Raise UserError if an export for a program cannot go there, before any work is done."""
    from huggingface_hub import get_token

    if to not in PROGRAMS:
        raise UsageError(
            f"push {repository}: {to} is not loaded from the Hub: give --to {'|'.join(PROGRAMS)}"
        )
    if not NAME.fullmatch(repository):
        raise UsageError(f"push {repository!r}: must be USER/NAME")
    if not get_token():
        raise UserError(f"push {repository}: no token is stored here: run `hf auth login`, or set HF_TOKEN")


def push_folder(folder: Path, files: Collection[str], repository: str, *, public: bool) -> str:
    """Put files of a folder into a repository, which is made if it is not there; its URL.

    repository: USER/NAME.  Raises UserError, a line: no permission, a repository that is there and is public
    without `public`, or private with it, somebody else's README.md in it, no network.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    api = client()
    what = f"{folder} is not pushed to {repository}"
    try:
        try:
            about = api.model_info(repository, timeout=TIMEOUT)
        except RepositoryNotFoundError:
            api.create_repo(repository, private=not public)
            about = api.model_info(repository, timeout=TIMEOUT)
        if not about.private and not public:
            raise UserError(f"{what}: everybody can see it: give --public if that is meant, or another name")
        if about.private and public:
            raise UserError(f"{what}: it is private: make it public in its settings, or leave --public out")
        if "README.md" in [each.rfilename for each in about.siblings or []]:
            card = Path(api.hf_hub_download(repository, "README.md", revision=about.sha))
            if not model_card.is_ours(card):
                raise UserError(f"{what}: its README.md is no model card of ours: give another name")
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(files),
            commit_message=f"Export by turbomim {__version__}",
        )
    except Exception as error:
        raise hub_error(error, what, repository) from error
    return f"{without_password(api.endpoint)}/{repository}"
