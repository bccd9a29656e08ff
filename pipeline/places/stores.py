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

from turbomim.pipeline.places.endpoints import check_endpoints, given_endpoints, has_plain_endpoint
from turbomim.pipeline.places.refusals import CREDENTIALS, explain_refusal
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import PlaceError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

# stores that can be written to, on a condition; files of a web server are only read
WRITABLE = ("s3", "gs", "az")
SCHEMES = (*WRITABLE, "https", "http")

CONNECT = timedelta(seconds=5)
# without a byte; a longer request goes on as long as bytes come
SILENCE = timedelta(seconds=20)
# for a whole request: 8 MiB at 50 kB/s
REQUEST = timedelta(seconds=180)
# where no variable and no profile names one; servers of one's own take any
REGION = "us-east-1"
# requests on their way that wait for a connection would take a new one each
IDLE_CONNECTIONS = 256


def check_url(where: str) -> None:
    """Raise UserError for a URL that is no place, or that holds a secret."""
    try:
        parts = urlsplit(where)
    except ValueError as error:
        # neither it nor what Python says of it: both may hold a password
        scheme = where.partition(":")[0]
        raise UserError(f"the URL {scheme}://… is none: give {scheme}://BUCKET/FOLDER") from error
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


def is_used() -> bool:
    """Whether this process opened a store of objects."""
    return _first_process.cache_info().currsize > 0


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
    check_endpoints(scheme)
    options: dict[str, Any] = {}
    if scheme == "http" or has_plain_endpoint(scheme):
        client["allow_http"] = True
    if scheme == "s3":
        options = _s3_options()
    try:
        return from_url(where, client_options=client, retry_config=retry, **options)  # type: ignore[call-overload,no-any-return]
    except Exception as error:
        raise explain_refusal(error, where, asked=False) from error


def _s3_options() -> dict[str, Any]:
    """What S3 needs beside what obstore reads in the environment itself."""
    options: dict[str, Any] = {"checksum_algorithm": "SHA256"}
    environment = os.environ
    if given_endpoints("s3") and "AWS_VIRTUAL_HOSTED_STYLE_REQUEST" not in environment:
        # servers of one's own seldom have a name for each bucket
        options["virtual_hosted_style_request"] = False
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    signed = environment.get("AWS_SKIP_SIGNATURE") not in ("true", "1")
    profiled = environment.get("AWS_PROFILE") or _credentials_file().exists()
    if signed and profiled and "AWS_ACCESS_KEY_ID" not in environment:
        provider = options["credential_provider"] = _boto3_provider(environment.get("AWS_PROFILE"))
        # of two, obstore would take the profile's
        region = region or provider.config.get("region")
    return {**options, "region": region or REGION}


def _credentials_file() -> Path:
    return Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or Path.home() / ".aws" / "credentials")


def _config_file() -> Path:
    return Path(os.environ.get("AWS_CONFIG_FILE") or Path.home() / ".aws" / "config")


def _boto3_provider(profile: str | None) -> Any:
    """The credentials of a profile, which boto3 reads and renews, and its region.  Raises PlaceError."""
    files = (_credentials_file(), _config_file())
    if not any(file.exists() for file in files):
        raise PlaceError(
            f"AWS_PROFILE is {profile!r}, and there is no file of profiles, {files[0]} or {files[1]}",
            CREDENTIALS["s3"],
        )
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
        said = f"boto3 finds no credentials in the profile {profile or 'default'!r}"
        raise PlaceError(said, "check AWS_PROFILE, and the files in ~/.aws") from error
