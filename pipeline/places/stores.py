"""URLs to clients of object stores, by obstore.

Credentials come from the environment and the libraries' own chains, and from nowhere else: no setting holds
one, so no log, checkpoint or report can.
"""

import os
import re
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import PlaceError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3", "gs", "az", "https", "http")

CONNECT = timedelta(seconds=5)
# without a byte; a longer request goes on as long as bytes come
SILENCE = timedelta(seconds=20)
# for a whole request: 8 MiB at 50 kB/s
REQUEST = timedelta(seconds=180)
# variables with the URL of a server of one's own: AWS_ENDPOINT_URL, AZURE_STORAGE_ENDPOINT, GOOGLE_BASE_URL
PLAIN = re.compile("ENDPOINT|GOOGLE_BASE_URL")
# requests on their way that wait for a connection would take a new one each
IDLE_CONNECTIONS = 256


def check_url(where: str) -> None:
    """Raise UserError for a URL that is no place, or that holds a secret."""
    parts = urlsplit(where)
    if parts.username or parts.password or parts.query or parts.fragment:
        shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
        raise UserError(
            f"{shown!r} was given with a user, a password or a query: give it without, and credentials in "
            "the environment (AWS_ACCESS_KEY_ID, …), so that no log can hold them"
        )
    if not parts.netloc:
        raise UserError(f"{where!r} names no bucket or host: give {parts.scheme}://BUCKET/FOLDER")
    if "//" in parts.path:
        meant = f"{parts.scheme}://{parts.netloc}{re.sub('/+', '/', parts.path)}"
        raise UserError(f"{where!r} has an empty name between two slashes: did you mean {meant}?")


@cache
def _first_process() -> int:
    """The process that used obstore first: threads there make every request, and a fork has none of them."""
    return os.getpid()


def check_process() -> None:
    """Raise PlaceError in a fork of a process that used obstore: whatever it asked would hang."""
    if _first_process() != os.getpid():
        raise PlaceError(
            "a store of objects was opened before this process was forked",
            'start processes by "spawn" or "forkserver", or open it there alone',
        )


def make_store(where: str, headers: dict[str, str] | None = None) -> "ObjectStore":
    """Make the client of a URL.  headers: sent with each request.  Raises PlaceError, UserError."""
    check_process()
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise UserError(f"{where!r} needs the package obstore: pip install obstore") from error
    client: dict[str, Any] = {
        "connect_timeout": CONNECT,
        "read_timeout": SILENCE,
        "timeout": REQUEST,
        "pool_max_idle_per_host": str(IDLE_CONNECTIONS),
        "user_agent": "turbomim",
    }
    if headers:
        client["default_headers"] = headers
    # it retries by itself, and counts nothing
    retry: dict[str, Any] = {"max_retries": 0}
    scheme = urlsplit(where).scheme
    _check_endpoints()
    options: dict[str, Any] = {}
    if scheme == "http" or _plain_endpoint():
        client["allow_http"] = True
    if scheme == "s3":
        options = _s3_options()
    try:
        return from_url(where, client_options=client, retry_config=retry, **options)  # type: ignore[call-overload,no-any-return]
    except Exception as error:
        from turbomim.pipeline.places.refusals import explain_refusal

        raise explain_refusal(error, where) from error


def _s3_options() -> dict[str, Any]:
    """What S3 needs beside what obstore reads in the environment itself."""
    options: dict[str, Any] = {"checksum_algorithm": "SHA256"}
    environment = os.environ
    if not any(name in environment for name in ("AWS_REGION", "AWS_DEFAULT_REGION")):
        options["region"] = "us-east-1"
    if (
        "AWS_ENDPOINT_URL" in environment or "AWS_ENDPOINT" in environment
    ) and "AWS_VIRTUAL_HOSTED_STYLE_REQUEST" not in environment:
        # servers of one's own seldom have a name for each bucket
        options["virtual_hosted_style_request"] = False
    if "AWS_ACCESS_KEY_ID" in environment or environment.get("AWS_SKIP_SIGNATURE") in ("true", "1"):
        return options
    if "AWS_PROFILE" in environment or _credentials_file().exists():
        options["credential_provider"] = _boto3_provider()
    return options


def _plain_endpoint() -> bool:
    """Whether the environment names a server without TLS, such as one of one's own."""
    return any(PLAIN.search(name) and value.startswith("http://") for name, value in os.environ.items())


def _check_endpoints() -> None:
    """Raise UserError for a server in the environment without http:// or https://, which ends the client."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"):
        value = os.environ.get(name, "http://")
        if not value.startswith(("http://", "https://")):
            raise UserError(f"{name} is {value!r}: give it with http:// or https:// before the host")


def _credentials_file() -> Path:
    return Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or Path.home() / ".aws" / "credentials")


def _boto3_provider() -> Any:
    """The credentials of a profile, which boto3 reads and renews."""
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise PlaceError(
            "credentials stand in a profile of ~/.aws",
            "pip install boto3, which reads it, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ) from error
    try:
        return Boto3CredentialProvider()
    except Exception as error:
        raise PlaceError("boto3 finds no credentials in the profile", "check AWS_PROFILE") from error
