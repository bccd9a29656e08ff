"""From what a user writes to a place, and what is refused before anything is asked."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from turbomim.pipeline.places import stores
from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.places.opening import check_local, is_remote, open_place
from turbomim.pipeline.places.stores import _s3_options
from turbomim.pipeline.system.errors import UsageError, UserError


@pytest.mark.parametrize("where", ["shards", "/data/shards", Path("shards"), "a:b", "s3", "hf"])
def test_a_path_is_a_folder(where: str | Path) -> None:
    place = open_place(where)
    assert isinstance(place, Folder) and not is_remote(where)
    assert str(place) == str(where) and place.at("x") == f"{where}/x"


REFUSED = {
    "ftp://host/x": r"'ftp://host/x': ftp:// is not known; give a folder, or one of s3://, ",
    "s3://": r"names no bucket or host: give s3://BUCKET/FOLDER",
    "s3://user:PASS-WORD@bucket/x": r"was given with a user, a password or a query",
    "https://host/x?sig=PASS-WORD": r"was given with a user, a password or a query",
    "https://host/x#PASS-WORD": r"was given with a user, a password or a query",
    "ftp://me:PASS-WORD@host/x?PASS-WORD": r"'ftp://host/x': ftp:// is not known; give a folder",
    "https:/me:PASS-WORD@host/x": r"did you mean 'https://host/x'",
    "https://me:PASS-WORD@[::/x": r"the URL https://… is none: give https://BUCKET/FOLDER",
}


@pytest.mark.parametrize("where", REFUSED)
def test_urls_that_are_refused(where: str) -> None:
    with pytest.raises(UserError, match=REFUSED[where]) as raised:
        open_place(where)
    assert "PASS-WORD" not in str(raised.value) and "\n" not in str(raised.value)


# pathlib makes one slash of two
@pytest.mark.parametrize(
    "where",
    ["s3//bucket/x", "s3:/bucket/x", Path("s3://bucket/x"), "s3:bucket/x", "S3://bucket/x", "S3//bucket/x"],
)
def test_a_url_with_a_slip_says_what_was_meant(where: str | Path) -> None:
    for ask in (is_remote, open_place):
        with pytest.raises(
            UserError, match=r"^a URL has :// after its scheme: did you mean 's3://bucket/x'\?$"
        ):
            ask(where)


@pytest.mark.parametrize(
    "where", ["s3://me:PASS-WORD@h/x?PASS-WORD", "https:/me:PASS-WORD@h/x#PASS-WORD", "a://b"]
)
def test_where_a_path_of_this_machine_is_needed(where: str) -> None:
    check_local("--out", "runs/a:b/s3")
    check_local("--out", Path("/s3/a"))
    check_local("--out", "")
    with pytest.raises(UsageError, match=r"^--out \w+://\w(/x)?: must be a path of this machine: ") as raised:
        check_local("--out", where)
    assert "PASS-WORD" not in str(raised.value)


def test_what_the_environment_says_to_a_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    assert _s3_options() == {"checksum_algorithm": "SHA256", "region": "us-east-1"}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert _s3_options()["virtual_hosted_style_request"] is False
    monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert _s3_options() == {"checksum_algorithm": "SHA256", "region": "eu-central-1"}


@pytest.fixture
def profiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file of profiles, not yet there, and no keys in the environment."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SKIP_SIGNATURE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path / "config"


def test_keys_in_a_profile_need_boto3(profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles.touch()
    monkeypatch.setitem(sys.modules, "obstore.auth.boto3", None)
    with pytest.raises(UserError, match=r"credentials stand in a profile of ~/\.aws; pip install boto3"):
        open_place("s3://bucket/x")


@pytest.mark.usefixtures("profiles")
def test_a_profile_without_files_is_named() -> None:
    with pytest.raises(UserError, match=r"AWS_PROFILE is 'mine', and there is no file .*; set AWS_ACCESS_K"):
        open_place("s3://bucket/x")


def test_the_region_is_that_of_the_profile(profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles.touch()
    provider = SimpleNamespace(config={"region": "eu-north-1"})
    module = SimpleNamespace(Boto3CredentialProvider=lambda: provider)
    monkeypatch.setitem(sys.modules, "obstore.auth.boto3", module)
    assert _s3_options()["region"] == "eu-north-1"
    provider.config = {}
    assert _s3_options()["region"] == "us-east-1"
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    provider.config = {"region": "eu-north-1"}
    assert _s3_options()["region"] == "eu-central-1"


def test_no_place_shows_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "access-distinct")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-distinct")
    place = open_place("s3://bucket/x")
    assert "distinct" not in f"{place} {place!r} {place.at('y')} {vars(place)}"
    assert stores.SCHEMES[0] == "s3"


def test_a_url_with_an_empty_name_says_what_was_meant() -> None:
    with pytest.raises(UserError, match=r"did you mean s3://bucket/a/train\?"):
        open_place("s3://bucket//a/train")


ENDPOINTS = {
    "AWS_ENDPOINT_URL": "s3://bucket/a",
    "AWS_ENDPOINT_URL_S3": "s3://bucket/a",
    "AWS_ENDPOINT": "s3://bucket/a",
    "AZURE_STORAGE_ENDPOINT": "az://bucket/a",
    "GOOGLE_BASE_URL": "gs://bucket/a",
    "HF_ENDPOINT": "hf://datasets/me/a",
}


@pytest.mark.parametrize("name", ENDPOINTS)
def test_an_endpoint_without_a_scheme_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "me:PASS-WORD@127.0.0.1:9000")
    with pytest.raises(UserError, match=rf"^{name} is '127.0.0.1:9000': give http://HOST:PORT") as raised:
        open_place(ENDPOINTS[name])
    assert "PASS-WORD" not in str(raised.value)


@pytest.mark.parametrize(
    "server",
    ["", "http://", "http:///b", "http://h:99:99", "http://h:x", "http://a b", "http://[::1", "ftp://h"],
)
def test_a_server_over_which_a_client_breaks_down(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    with pytest.raises(UserError, match=f"^AWS_ENDPOINT_URL is '{re.escape(server)}': .* or unset it$"):
        open_place("s3://bucket/a")


@pytest.mark.parametrize("server", ["http://h", "HTTPS://h:1/", "http://[::1]:80", "http://me:pw@h.x/path"])
def test_servers_of_ones_own(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    assert str(open_place("s3://bucket/a")) == "s3://bucket/a"


@pytest.mark.parametrize("alone", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_half_of_the_keys_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, alone: str) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv(alone, "distinct-half")
    with pytest.raises(UserError, match=r"^cannot open 's3://b/x': no credentials .*; set AWS_ACCESS_KEY_ID"):
        open_place("s3://b/x")
