"""Models of the Hugging Face Hub: fetched, and what is said of the Hub where it cannot be asked.

huggingface_hub finds the token by itself (`hf auth login`, HF_TOKEN); it goes to the Hub alone.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from turbomim.pipeline.places.endpoints import check_endpoints
from turbomim.pipeline.system.errors import UserError, one_line, without_password
from turbomim.pipeline.system.remedies import explain
from turbomim.train.foreign.file import EXPORTED

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_URL: Final = re.compile(r"hf://(?P<name>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<file>.+))?")
# what holds weights, the one that is taken first
_WEIGHTS: Final = (EXPORTED, "pytorch_model.bin")
_ENDINGS: Final = (".safetensors", ".pth", ".pt", ".bin")
# seconds for one answer about a model: of itself huggingface_hub waits for ever
TIMEOUT: Final = 20.0
# seconds without a byte that end an upload: a hub may think for some of them about a commit
SILENCE: Final = 60.0
_LOG_IN: Final = "run `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A file of the Hub: where it is on this machine, and its URL with the commit that it is of."""

    path: Path
    url: str


@contextmanager
def bars_on_terminals() -> Iterator[None]:
    """Within it the Hub's client draws its bars on a terminal alone."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    off = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if off:
        disable_progress_bars()
    try:
        yield
    finally:
        if off:
            enable_progress_bars()


@bars_on_terminals()
def fetch(where: str) -> Fetched:
    """Fetch a model's weights and the config.json beside them into the cache of huggingface_hub.

    where: hf://USER/NAME[@REVISION][/FILE].  Raises UserError, a line: no such model, revision or file, no
    permission, no network.
    """
    parts = _URL.fullmatch(where)
    if parts is None or parts["name"].startswith("datasets/"):
        raise UserError(f"{where!r} names no model: give hf://USER/NAME[@REVISION][/FILE]")
    api = client()
    name, revision = parts["name"], parts["revision"]
    try:
        about = api.model_info(name, revision=revision, timeout=TIMEOUT)
        files = [each.rfilename for each in about.siblings or []]
        file = parts["file"] or _weights_of(files, where)
        beside = str(PurePosixPath(file).with_name("config.json"))
        for wanted in (beside, file):
            if wanted == file or wanted in files:
                path = Path(api.hf_hub_download(name, wanted, revision=about.sha))
    except Exception as error:
        raise hub_error(error, f"{where} is not fetched", name) from error
    return Fetched(path=path, url=f"hf://{name}@{about.sha}/{file}")


def client() -> "HfApi":
    """The Hub's client.  Raises UserError if HF_ENDPOINT is no URL."""
    from huggingface_hub import HfApi

    check_endpoints("hf")
    return HfApi(library_name="turbomim")


@contextmanager
def ending_silence(what: str, name: str) -> Iterator[None]:
    """Within it `SILENCE` seconds without a byte end a request, as `hub_error` says; it is not repeated.

    Of itself huggingface_hub waits for ever, and its calls that upload take no timeout.  hf_xet, which may
    carry the large files, has limits of its own: HF_XET_CLIENT_READ_TIMEOUT and HF_XET_CLIENT_RETRY_MAX_….
    """
    from huggingface_hub.utils import _http

    http: Any = _http
    # since version 1 it asks by httpx, before by requests
    if hasattr(http, "set_client_factory"):
        change, before = http.set_client_factory, http._GLOBAL_CLIENT_FACTORY
    else:
        change, before = http.configure_http_backend, http._GLOBAL_BACKEND_FACTORY

    def limited() -> Any:
        session = before()
        send = session.send

        def send_limited(request: object, **options: Any) -> Any:
            # requests has it here, httpx in the client
            if options.get("timeout", 0) is None:
                options["timeout"] = SILENCE
            try:
                return send(request, **options)
            except Exception as error:
                if "Timeout" in type(error).__name__:
                    raise hub_error(error, what, name) from error
                raise

        session.timeout, session.send = SILENCE, send_limited
        return session

    change(limited)
    try:
        yield
    finally:
        change(before)


def hub_error(error: Exception, what: str, name: str) -> UserError:
    """An error of huggingface_hub as a line: what failed, why, and what helps."""
    from huggingface_hub import constants, errors

    if type(error) is RuntimeError and isinstance(error.__cause__, Exception):
        # what befell the upload of a large file
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", 0)
    server = without_password(constants.ENDPOINT)
    if isinstance(error, UserError):
        return error
    if isinstance(error, errors.GatedRepoError):
        why = f"its owner lets in who agrees to terms: agree at {server}/{name}, then {_LOG_IN}"
    elif isinstance(error, errors.RevisionNotFoundError):
        why = f"{name} has no such revision: check what follows the @"
    elif isinstance(error, errors.RepositoryNotFoundError):
        why = f"there is no model {name}, or no permission to see it: check the name, or {_LOG_IN}"
    elif isinstance(error, errors.LocalTokenNotFoundError) or status == 401:
        why = f"the Hub takes no token from here: {_LOG_IN}"
    elif status == 403:
        why = f"no permission for {name}: check the name, and take a token that may write"
    elif isinstance(error, errors.OfflineModeIsEnabled):
        why = "HF_HUB_OFFLINE is set: unset it"
    elif isinstance(error, errors.EntryNotFoundError) and status:
        why = f"{name} has no such file: check what follows the name"
    elif isinstance(error, errors.HFValidationError):
        why = f"nothing on the Hub can be called {name!r}: give USER/NAME"
    elif status:
        why = f"the Hub answers with status {status}, {one_line(error, 200)}: try again"
    elif isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
        where = error.filename or constants.HF_HUB_CACHE
        why = f"{where}: {explain(error, 'set HF_HOME to a folder that can be written')}"
    elif "Timeout" in type(error).__name__:
        why = f"{server} does not answer, {type(error).__name__}: check the network, and try again"
    else:
        why = f"{server} cannot be asked, {type(error).__name__}: check the network and HF_ENDPOINT"
    return UserError(f"{what}: {why}")


def _weights_of(files: Iterable[str], where: str) -> str:
    """The file with the weights among those of a model.  Raises UserError if it cannot be told."""
    top = [file for file in files if "/" not in file and file.endswith(_ENDINGS)]
    for file in _WEIGHTS:
        if file in top:
            return file
    if len(top) != 1:
        listed = ", ".join(top[:5]) or "none"
        raise UserError(f"{where} has no {EXPORTED}; files of weights: {listed}: give {where}/FILE")
    return top[0]
