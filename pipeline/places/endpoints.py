"""Servers of one's own, which variables of the environment name: by the scheme of a URL.

Example: with AWS_ENDPOINT_URL=http://127.0.0.1:8333, s3://bucket/train is asked of that server.
"""

import os
import re

from turbomim.pipeline.system.errors import UserError

# the first is the one that people are told of
ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "hf": ("HF_ENDPOINT",),
}
# http://HOST:PORT/…, or an address of IPv6 for the host; a user before it is the client's affair
SERVER = re.compile(r"https?://([^\s/@]*@)?([^\s/:@\[\]]+|\[[0-9a-f:.]+\])(:\d{1,5})?(/\S*)?", re.IGNORECASE)


def given_endpoints(scheme: str) -> dict[str, str]:
    """The variables that are set, and their values."""
    return {name: os.environ[name] for name in ENDPOINTS.get(scheme, ()) if name in os.environ}


def check_endpoints(scheme: str) -> None:
    """Raise UserError for what is no URL of a server: clients break down over it at the first request."""
    for name, value in given_endpoints(scheme).items():
        if not SERVER.fullmatch(value):
            shown = value.rpartition("@")[2].partition("?")[0]
            raise UserError(f"{name} is {shown!r}: give http://HOST:PORT or https://HOST, or unset it")


def has_plain_endpoint(scheme: str) -> bool:
    """Whether one is asked without TLS."""
    return any(value.lower().startswith("http://") for value in given_endpoints(scheme).values())


def server_of(scheme: str) -> str:
    """What names the server, for people: a variable, or the URL itself."""
    return ENDPOINTS.get(scheme, ("the URL",))[0]


def look_at(scheme: str, *others: str) -> str:
    """What to look at where a server cannot be asked: `check the URL, AWS_ENDPOINT_URL and the network`."""
    things = ["the URL", *ENDPOINTS.get(scheme, ())[:1], *others]
    listed = ", ".join(things[:-1])
    return f"check {listed and f'{listed} and '}{things[-1]}"
