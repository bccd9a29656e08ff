"""What an object store refused, in words for people and without secrets.

obstore raises few classes, and texts of many lines with URLs in them.  S3's own code, such as SlowDown,
stands in the XML of the answer: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

import os
import re

from turbomim.pipeline.places.endpoints import look_at, server_of
from turbomim.pipeline.system.errors import without_password
from turbomim.pipeline.system.remedies import Changed, Exists, NoSuchObject, PlaceError

STATUS = re.compile(r"status code: (\d{3})")
# in XML, or as obstore repeats it
CODE = re.compile(r"(?:<Code>|\(code: )(\w+)")
# one of two keys
HALF = re.compile(r"Missing (?:AccessKeyId|SecretAccessKey)")
# in texts that are counted
TIMES = re.compile(r" in [\d.]+[mµn]?s\b")
# what names a secret in the environment
SECRET_NAME = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL", re.IGNORECASE)

# where a client looks for credentials last: servers of the machines of Amazon, Google and Microsoft
LAST_RESORTS = ("169.254.169.254", "metadata.google.internal")

# by the scheme of a URL
CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; AWS_SKIP_SIGNATURE=true reads a public bucket",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to a key file, or run `gcloud auth application-default login`; "
    "GOOGLE_SKIP_SIGNATURE=true reads a public bucket",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY; AZURE_SKIP_SIGNATURE=true reads a "
    "public container",
}
OPEN_TO_ALL = "a server of files is read without credentials: open them to all, or use a store of objects"
AGAIN = "the store or the network fails: try again later"
PERMISSION = "check the keys in the environment, and what they may do there"
# what Rust's errors that nobody foresaw are in Python
PANIC = "PanicException"
# of S3 and Google; of Azure
NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
# codes of stores whose cause is not the status' own
CODES = {
    **dict.fromkeys(NO_BUCKET, ("there is no such bucket", "check its name and {server}, or create it")),
    "InvalidAccessKeyId": ("the store does not know the access key", PERMISSION),
    "SignatureDoesNotMatch": ("the secret key is not the one of the access key", PERMISSION),
    "AccessDenied": ("no permission", PERMISSION),
    "ExpiredToken": ("the credentials have expired", "renew them in the environment"),
    "RequestTimeTooSkewed": ("the clock of this machine is wrong", "set it, the store compares times"),
}
WANTS_TLS = ("the server speaks https, not http", "give https:// instead of http:// in {server}")
UNTRUSTED = (
    "its certificate is not trusted",
    "give the name that is in the certificate, and its authority with SSL_CERT_FILE",
)
# parts of texts of the HTTP client
SENDING = {
    "Connection refused": "nobody listens there",
    "dns error": "no host of that name",
    "timed out": "no answer in time",
    "TimedOut": "no answer in time",
    "ConnectionReset": "the connection was reset",
    "BrokenPipe": "the connection was reset",
    "UnexpectedEof": "the connection ended within an answer",
    "IncompleteMessage": "the connection ended within an answer",
    "response body": "the connection ended within an answer",
    "list response": "the connection ended within an answer",
}
# of TLS, as the client says it or a server without words of its own: what is said, what helps
TLS = {
    "InvalidMessage": ("the server speaks http, not https", "give http:// instead of https:// in {server}"),
    "HTTP request to an HTTPS server": WANTS_TLS,
    "HTTP request was sent to HTTPS port": WANTS_TLS,
    "InvalidCertificate": UNTRUSTED,
    "certificate verify failed": UNTRUSTED,
}


def is_of_client(error: BaseException) -> bool:
    """Whether an error is obstore's own: a panic of it is no Exception."""
    return isinstance(error, Exception) or type(error).__name__ == PANIC


def explain_refusal(error: BaseException, what: str, *, asked: bool = True) -> PlaceError:
    """Turn an error of obstore into ours, and say if a retry may help.

    what: the object, for people; asked: whether a request was made, and not a client alone.
    """
    text = str(error)
    kind, scheme = type(error).__name__, what.partition(":")[0]
    head = text.partition("Debug source")[0]
    code = (CODE.findall(text) or [""])[0]
    status = int((STATUS.findall(head) or ["0"])[0])
    if kind == PANIC:
        return PlaceError("its client broke down", look_at(scheme, "the keys in the environment"))
    if kind == "AlreadyExistsError":
        return Exists(f"{what} is there already")
    if kind == "PreconditionError":
        return changed(what)
    if "service account file" in head:
        return PlaceError("the key file cannot be read", "check GOOGLE_APPLICATION_CREDENTIALS")
    if any(host in text for host in LAST_RESORTS) or "must be specified" in head or HALF.search(head):
        return PlaceError("no credentials were found", CREDENTIALS.get(scheme, PERMISSION))
    if code in CODES:
        said, helps = CODES[code]
        cause = NoSuchObject if code in NO_BUCKET else PlaceError
        return cause(said, helps.format(server=server_of(scheme)), passing=code == "ExpiredToken")
    if isinstance(error, FileNotFoundError) or kind == "NotFoundError" or status == 404:
        return NoSuchObject("there is no such object")
    if status == 401 and what.startswith("hf:"):
        # the hub took the token when it was asked for the commit
        return PlaceError("the token has expired", "run `hf auth login`", passing=True)
    if kind in ("PermissionDeniedError", "UnauthenticatedError") or status in (401, 403):
        public = what.startswith("http")
        return PlaceError(f"no permission ({status or kind})", OPEN_TO_ALL if public else PERMISSION)
    if kind == "NotSupportedError" or "non-partial response" in text:
        return PlaceError("the server gives no parts of files", "serve them by one that does, such as nginx")
    if status == 416:
        return PlaceError("it ends before that byte")
    failure = explain_failure(text or kind, status, code, scheme=scheme)
    # of the connection, or of an answer that is cut; other kinds are of what was asked
    if failure.passing and not status and (kind != "GenericError" or not asked):
        failure.passing, failure.helps = False, look_at(scheme)
    return failure


def explain_failure(text: str, status: int, code: str = "", *, scheme: str) -> PlaceError:
    """Say what a store answered, or why it did not.

    status: of HTTP, 0 for none; code: the store's own; scheme: of the URL, by which the remedies differ.
    """
    if tls := next((words for part, words in TLS.items() if part in text), None):
        return PlaceError(tls[0], tls[1].format(server=server_of(scheme)))
    if status:
        passing = (status >= 500 and status != 501) or status in (408, 425, 429)
        helps = AGAIN if passing else look_at(scheme, "the store")
        return PlaceError(f"the store answered {status} {code}".rstrip(), helps, passing=passing)
    said = next((words for part, words in SENDING.items() if part in text), "")
    if "builder error" in text:
        return PlaceError("its URL cannot be used", look_at(scheme))
    if said:
        return PlaceError(said, look_at(scheme, "the network"), passing=True)
    head = " ".join(TIMES.sub("", without_secrets(text.partition("Debug source")[0])).split())
    return PlaceError(head[:300] or "it fails", AGAIN, passing=True)


def is_beyond(error: Exception) -> bool:
    """Whether a range was asked for that begins behind the end: of an empty object, any does."""
    return "status code: 416" in str(error).partition("Debug source")[0]


def changed(what: str) -> Changed:
    """The error for an object that is another now."""
    return Changed(
        f"{what} was changed since it was opened",
        "put the old object back; of a shard, `turbomim shard verify` says if the new one is right",
    )


def without_secrets(text: str) -> str:
    """Cut passwords and queries out of URLs, and what the environment calls a key, a token or a secret."""
    text = re.sub(r"\?[^\s\"')]*", "", without_password(text))
    for name, value in os.environ.items():
        if len(value) >= 6 and SECRET_NAME.search(name):
            text = text.replace(value, "***")
    return text
