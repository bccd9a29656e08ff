"""Exports to the Hugging Face Hub: a folder's files into a repository, private unless said otherwise."""

from pathlib import Path
from typing import Final

from turbomim import __version__
from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.train.export import model_card
from turbomim.train.foreign.hub import NAME, client, hub_error

# the programs that load from the Hub
PROGRAMS: Final = ("timm", "hf")
# what an export has; nothing else of its folder is anybody's
_FILES: Final = ("README.md", "config.json", "model.safetensors", "preprocessor_config.json")


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


def push_folder(folder: Path, repository: str, *, public: bool) -> str:
    """Put an export's files into a repository, which is made if it is not there; its URL.

    repository: USER/NAME.  Raises UserError, a line: no permission, a repository that others can see without
    `public`, somebody else's README.md in it, no network.
    """
    api = client()
    what = f"{folder} is not pushed to {repository}"
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        about = api.model_info(repository)
        if not about.private and not public:
            raise UserError(f"{what}: everybody can see it: give --public if that is meant, or another name")
        if "README.md" in [each.rfilename for each in about.siblings or []]:
            card = Path(api.hf_hub_download(repository, "README.md", revision=about.sha))
            if not model_card.is_ours(card):
                raise UserError(f"{what}: its README.md is no model card of ours: give another name")
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=[*_FILES, *(f"mae/{file}" for file in _FILES)],
            commit_message=f"Export by turbomim {__version__}",
        )
    except Exception as error:
        raise hub_error(error, what, repository) from error
    return f"{api.endpoint}/{repository}"
