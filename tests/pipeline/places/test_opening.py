"""From what a user writes to a place, and what is refused before anything is asked."""

from pathlib import Path

import pytest

from turbomim.pipeline.places import stores
from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.places.opening import is_remote, open_place
from turbomim.pipeline.places.stores import _s3_options
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import PlaceError


@pytest.mark.parametrize("where", ["shards", "/data/shards", Path("shards"), "a:b", "s3", "hf"])
def test_a_path_is_a_folder(where: str | Path) -> None:
    place = open_place(where)
    assert isinstance(place, Folder) and not is_remote(where)
    assert str(place) == str(where) and place.at("x") == f"{where}/x"


REFUSED = {
    "ftp://host/x": r"'ftp://host/x': ftp:// is not known; give a folder, or one of s3://, ",
    "s3://": r"names no bucket or host: give s3://BUCKET/FOLDER",
    "s3:/bucket/x": r"'s3:/bucket/x' has one slash .*: give s3://bucket/x",
    "https:/host/x": r"'https:/host/x' has one slash .*: give https://host/x",
    "s3://user:PASS-WORD@bucket/x": r"was given with a user, a password or a query",
    "https://host/x?sig=PASS-WORD": r"was given with a user, a password or a query",
    "https://host/x#PASS-WORD": r"was given with a user, a password or a query",
}


@pytest.mark.parametrize("where", REFUSED)
def test_urls_that_are_refused(where: str) -> None:
    with pytest.raises(UserError, match=REFUSED[where]) as raised:
        open_place(where)
    assert "PASS-WORD" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_path_of_a_url_is_refused_too() -> None:
    """pathlib makes one slash of two."""
    with pytest.raises(UserError, match="one slash"):
        open_place(Path("s3://bucket/x"))


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
    assert _s3_options() == {"checksum_algorithm": "SHA256"}


def test_keys_in_a_profile_need_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.delenv("AWS_SKIP_SIGNATURE", raising=False)
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setitem(__import__("sys").modules, "obstore.auth.boto3", None)
    with pytest.raises(PlaceError, match=r"credentials stand in a profile") as raised:
        open_place("s3://bucket/x")
    assert "pip install boto3" in raised.value.helps


def test_no_place_shows_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "access-distinct")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-distinct")
    place = open_place("s3://bucket/x")
    assert "distinct" not in f"{place} {place!r} {place.at('y')} {vars(place)}"
    assert stores.SCHEMES[0] == "s3"


def test_a_url_with_an_empty_name_says_what_was_meant() -> None:
    with pytest.raises(UserError, match=r"did you mean s3://bucket/a/train\?"):
        open_place("s3://bucket//a/train")


def test_an_endpoint_without_a_scheme_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
    with pytest.raises(UserError, match=r"AWS_ENDPOINT_URL is '127.0.0.1:9000': give it with http://"):
        open_place("s3://bucket/a")
