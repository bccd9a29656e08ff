"""Commands that a store refuses: one line with place, cause and remedy, an exit code, and no secret."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.calls import call

from turbomim.benchmarks.stores import weed
from turbomim.pipeline.places import retries
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.tars.split import Split

SECRET = "distinct-secret-0123456789"
RECIPE = "cifar10-vit-t4"
DEAD = "http://127.0.0.1:9"


@pytest.fixture
def remote(tiny_split: Split, s3: str) -> str:
    """The URL of `tiny_split` in the store."""
    place = open_place(s3)
    for path in sorted(tiny_split.folder.iterdir()):
        place.put(path.name, path)
    return s3


def as_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("AWS_ACCESS_KEY_ID", weed.BAD.access)
    patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


def with_another_secret(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


def as_reader(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("AWS_ACCESS_KEY_ID", weed.READ_ONLY.access)
    patch.setenv("AWS_SECRET_ACCESS_KEY", weed.READ_ONLY.secret)


def without_keys(patch: pytest.MonkeyPatch) -> None:
    patch.delenv("AWS_ACCESS_KEY_ID")
    patch.delenv("AWS_SECRET_ACCESS_KEY")


def to_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("AWS_ENDPOINT_URL", DEAD)


def unchanged(patch: pytest.MonkeyPatch) -> None:
    """Nothing is done."""


# of the split: its URL as it is given, what is done to the environment, what is said
REFUSED: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None], str]] = {
    "no bucket": ("s3://no-such-bucket/x", unchanged, "there is no such bucket; check its name"),
    "no key": ("{s3}/nothing", unchanged, "no manifest.json in '{s3}/nothing'"),
    "no permission": ("{s3}", as_nobody, "the store does not know the access key; check the keys"),
    "wrong secret": ("{s3}", with_another_secret, "the secret key is not the one of the access key"),
    "no credentials": ("{s3}", without_keys, "AWS_ACCESS_KEY_ID"),
    "unreachable": (
        "{s3}",
        to_nobody,
        " s); check the URL, AWS_ENDPOINT_URL",
    ),
    "one slash": ("s3:/turbomim/x", unchanged, "did you mean 's3://turbomim/x'?"),
    "nothing there": ("{s3}/nothing", unchanged, ": give the URL that `turbomim shard make` or"),
    "unknown scheme": ("ftp://host/x", unchanged, "ftp:// is not known; give a folder, or one of s3://"),
    "password": (f"https://me:{SECRET}@host/x", unchanged, "was given with a user, a password or a query"),
    "query": (f"https://host/x?sig={SECRET}", unchanged, "was given with a user, a password or a query"),
}
COMMANDS = {
    "pretrain": (
        "pretrain",
        RECIPE,
        "--data.path",
        "{}",
        "--run.folder",
        "{runs}",
        "--step.device",
        "cpu",
    ),
    "inspect": ("shard", "inspect", "{}"),
    "verify": ("shard", "verify", "{}"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", REFUSED)
def test_one_line_for_each(
    remote: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    command: str,
    case: str,
) -> None:
    monkeypatch.setattr(retries, "LIMIT_NEW", 0.4)
    where, change, said = REFUSED[case]
    change(monkeypatch)
    where, runs = where.format(s3=remote), str(tmp_path / "runs")
    code = call(monkeypatch, *(word.format(where, runs=runs) for word in COMMANDS[command]))
    found = capfd.readouterr()
    # a line that something is tried again may come before
    lines = [line for line in found.err.splitlines() if "tried again" not in line]
    assert code in (1, 2) and len(lines) == 1, found.err
    assert said.format(s3=remote) in lines[0] and "Traceback" not in found.err
    assert SECRET not in found.err + found.out
    assert not (tmp_path / "runs").exists()


def test_cat_names_place_and_cause(
    remote: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(retries, "LIMIT_NEW", 0.4)
    open_place(remote).delete("trees-train-000001.idx")
    for words, change in (
        (f"'trees-train-000001.tar:a' of '{remote}': there is no such object; `turbomim shard v", unchanged),
        (f"'{remote}/manifest.json': nobody listens there (tried for 0 s); check the URL, AWS_", to_nobody),
    ):
        change(monkeypatch)
        assert call(monkeypatch, "shard", "cat", remote, "trees-train-000001.tar:a") == 1
        assert f"turbomim: cannot read {words}" in capfd.readouterr().err


def test_keys_that_only_read(
    remote: str,
    photo_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A split is read; nothing is made, and no run begins whose mirror cannot be written."""
    as_reader(monkeypatch)
    assert call(monkeypatch, "shard", "inspect", remote) == 0
    capfd.readouterr()
    made = ("shard", "make", str(photo_folder), f"{remote}/made")
    run = (
        "pretrain", RECIPE, "--data.path", remote, "--run.folder", str(tmp_path), "--step.device", "cpu",
        "--run.mirror", f"{remote}/runs",
    )  # fmt: skip
    for words in (made, run):
        assert call(monkeypatch, *words) == 1
        said = capfd.readouterr().err
        assert said.count("\n") == 1 and "no permission" in said and "check the keys" in said, said
        assert weed.READ_ONLY.secret not in said
