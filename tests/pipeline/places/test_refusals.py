"""What a store refuses, in words: what obstore says on the left, what a user is told on the right."""

import re

import obstore.exceptions as refused
import pytest

from turbomim.pipeline.places.refusals import explain_refusal, without_secrets
from turbomim.pipeline.system.remedies import Changed, Exists, NoSuchObject, PlaceError

WHAT = "s3://b/x.tar"
PASSING, FINAL = True, False


def http(status: str, code: str = "") -> str:
    """As obstore words an answer of S3."""
    xml = f"<?xml version='1.0'?>\n<Error><Code>{code}</Code><Message>m</Message></Error>" if code else ""
    return (
        "Generic S3 error: Error performing GET http://127.0.0.1:1/b/x.tar?X-Amz-Signature=abc in 2.9ms - "
        f"Server returned non-2xx status code: {status}: {xml}\n\nDebug source:\nGeneric {{ store: }}"
    )


def sending(cause: str) -> str:
    """As obstore words a request that got no answer."""
    said = "Generic S3 error: Error performing GET http://h/b in 1s - HTTP error: error sending"
    return f"{said}\n\nDebug source:\n{cause}"


TABLE = [
    (
        refused.GenericError(http("500 Internal Server Error", "InternalError")),
        PlaceError, "the store answered 500 InternalError", PASSING,
    ),
    (
        refused.GenericError(http("503 Service Unavailable", "SlowDown")),
        PlaceError, "the store answered 503 SlowDown", PASSING,
    ),
    (refused.GenericError(http("429 Too Many Requests")), PlaceError, "the store answered 429", PASSING),
    (
        refused.GenericError(http("400 Bad Request", "InvalidArgument")),
        PlaceError, "the store answered 400 InvalidArgument", FINAL,
    ),
    (
        refused.GenericError(http("416 Range Not Satisfiable", "InvalidRange")),
        PlaceError, "it ends before that byte", FINAL,
    ),
    (
        refused.PermissionDeniedError(http("403 Forbidden", "ExpiredToken")),
        PlaceError, "the credentials have expired", PASSING,
    ),
    (
        refused.PermissionDeniedError(http("403 Forbidden", "AccessDenied")),
        PlaceError, "no permission", FINAL,
    ),
    (refused.PermissionDeniedError(http("403 Forbidden")), PlaceError, "no permission (403)", FINAL),
    (
        refused.GenericError("Generic S3 error: DeleteObjects request failed for y: (code: AccessDenied)"),
        PlaceError, "no permission", FINAL,
    ),
    (
        refused.PermissionDeniedError(http("403 Forbidden", "InvalidAccessKeyId")),
        PlaceError, "the store does not know the access key", FINAL,
    ),
    (
        refused.PermissionDeniedError(http("403 Forbidden", "SignatureDoesNotMatch")),
        PlaceError, "the secret key is not the one of the access key", FINAL,
    ),
    (
        refused.PermissionDeniedError(http("403 Forbidden", "RequestTimeTooSkewed")),
        PlaceError, "the clock of this machine is wrong", FINAL,
    ),
    (FileNotFoundError(http("404 Not Found", "NoSuchKey")), NoSuchObject, "there is no such object", FINAL),
    (
        FileNotFoundError(http("404 Not Found", "NoSuchBucket")),
        NoSuchObject, "there is no such bucket", FINAL,
    ),
    (
        refused.GenericError(http("404 Not Found", "ContainerNotFound")),
        NoSuchObject, "there is no such bucket", FINAL,
    ),
    (
        refused.GenericError("Generic GCS error: Unable to open service account file from /k: No such file"),
        PlaceError, "the key file cannot be read", FINAL,
    ),
    (refused.AlreadyExistsError("x"), Exists, f"{WHAT} is there already", FINAL),
    (refused.PreconditionError("x"), Changed, f"{WHAT} was changed since it was opened", FINAL),
    (
        refused.NotSupportedError("Operation not supported: Range request not supported by x"),
        PlaceError, "the server gives no parts of files", FINAL,
    ),
    (
        refused.GenericError(sending("InvalidData, error: InvalidMessage(InvalidContentType)")),
        PlaceError, "the server speaks http, not https", FINAL,
    ),
    (
        refused.GenericError(http("400 Bad Request") + "Client sent an HTTP request to an HTTPS server."),
        PlaceError, "the server speaks https, not http", FINAL,
    ),
    (
        refused.GenericError(sending("error: InvalidCertificate(UnknownIssuer)")),
        PlaceError, "its certificate is not trusted", FINAL,
    ),
    (
        refused.InvalidPathError('Path "a//b" contained empty path segment'),
        PlaceError, 'Path "a//b" contained empty path segment', FINAL,
    ),
    (refused.GenericError(sending("Connection refused")), PlaceError, "nobody listens there", PASSING),
    (refused.GenericError(sending("dns error")), PlaceError, "no host of that name", PASSING),
    (refused.GenericError(sending("kind: TimedOut")), PlaceError, "no answer in time", PASSING),
    (
        refused.GenericError(sending("kind: ConnectionReset")),
        PlaceError, "the connection was reset", PASSING,
    ),
    (
        refused.GenericError(sending("kind: UnexpectedEof")),
        PlaceError, "the connection ended within an answer", PASSING,
    ),
    (refused.GenericError(sending("169.254.169.254")), PlaceError, "no credentials were found", FINAL),
    (
        refused.GenericError("Generic S3 error: what nobody expects at http://h/b?sig=1 in 2.5ms"),
        PlaceError, "Generic S3 error: what nobody expects at http://h/b", PASSING,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("error", "kind", "said", "passing"), TABLE, ids=lambda value: str(value)[:40])
def test_the_table(error: Exception, kind: type[PlaceError], said: str, passing: bool) -> None:
    found = explain_refusal(error, WHAT)
    assert (type(found), str(found), found.passing) == (kind, said, passing)
    assert "\n" not in found.helps and (passing or "try again" not in found.helps)
    if not isinstance(found, NoSuchObject | Exists) and said != "it ends before that byte":
        assert found.helps


def test_no_secret_is_in_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "distinct-secret")
    monkeypatch.setenv("HF_TOKEN", "hf_distinct")
    text = "https://h/p?X-Amz-Signature=abc 'http://h/q?sig=def', key distinct-secret, hf_distinct"
    assert without_secrets(text) == "https://h/p 'http://h/q', key ***, ***"
    assert without_secrets("at https://me:p@ss@h:9/a@b, hf://me/a@b") == "at https://h:9/a@b, hf://me/a@b"
    found = explain_refusal(refused.GenericError(f"odd: {text}"), WHAT)
    assert not re.search("distinct|abc|def", str(found))


def test_what_a_url_makes_impossible_is_not_tried_again() -> None:
    text = 'Generic URL error: Path "/a//b" contained empty path segment'
    found = explain_refusal(refused.GenericError(text), WHAT, asked=False)
    assert not found.passing and found.helps == "check the URL and AWS_ENDPOINT_URL"


@pytest.mark.parametrize(
    ("what", "server"),
    [
        ("s3://b/x", "the URL, AWS_ENDPOINT_URL"),
        ("gs://b/x", "the URL, GOOGLE_BASE_URL"),
        ("az://b/x", "the URL, AZURE_STORAGE_ENDPOINT"),
        ("hf://datasets/a/b/x", "the URL, HF_ENDPOINT"),
        ("https://h/x", "the URL"),
    ],
)
def test_the_server_is_that_of_the_scheme(what: str, server: str) -> None:
    found = explain_refusal(refused.GenericError(sending("dns error")), what)
    assert found.helps == f"check {server} and the network"
    found = explain_refusal(refused.GenericError(sending("InvalidMessage")), what)
    assert found.helps == f"give http:// instead of https:// in {server.rpartition(', ')[2]}"


@pytest.mark.parametrize(
    ("what", "helps"),
    [
        ("s3://b/x", "AWS_ACCESS_KEY_ID"),
        ("gs://b/x", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("az://b/x", "AZURE_STORAGE_ACCOUNT_KEY"),
    ],
)
def test_credentials_are_those_of_the_scheme(what: str, helps: str) -> None:
    found = explain_refusal(refused.GenericError(sending("169.254.169.254")), what)
    assert re.findall("AWS_ACCESS_KEY_ID|GOOGLE_APP[A-Z_]*|AZURE[A-Z_]*ACCOUNT_KEY", found.helps) == [helps]
