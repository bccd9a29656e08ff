"""Exports pushed to a hub, loaded from there by timm and transformers, and imported again.

Planted, each seen to fail the test named: always public, everything in the folder pushed
(`test_what_was_pushed_loads_from_the_hub`); a public repository taken,
a private one for everybody, the network blamed for the cache (`test_what_the_hub_refuses_is_one_line`);
what another export wrote pushed (`test_what_another_export_wrote_beside_it_stays_here`); no timeout, the
password of HF_ENDPOINT said (`test_a_hub_that_takes_connections_and_says_nothing`); the main branch
whatever the revision (`test_an_import_is_of_a_revision`), no limit of an upload
(`test_a_hub_that_goes_silent_ends_the_push`), and the file's bare name for what a run began with.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
import transformers
from huggingface_hub import constants, file_download
from huggingface_hub.utils.tqdm import are_progress_bars_disabled
from tests.calls import call
from tests.exported import images, make_run, pixels
from tests.stores.model_hub import OTHER, TOKEN, USER, ModelHub, Repository, model_hub

import turbomim
from turbomim.train.encoder.features import load_run
from turbomim.train.export import push
from turbomim.train.folder.begun import begun_in_words
from turbomim.train.foreign import hub as foreign_hub

pytestmark = pytest.mark.usefixtures("here")
NAME = f"{USER}/trees-mae"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    """A hub, the token for it, and a cache of this test's own."""
    with model_hub(tmp_path) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        resolve = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        # version 0.34 has it by its own name, too
        for module in (constants, file_download):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", resolve, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def test_bars_of_the_caller_stay_as_they_were(hub: ModelHub) -> None:
    """Planted, and seen to fail: bars switched off for the whole process."""
    assert not are_progress_bars_disabled()
    turbomim.export(make_run("mae").run, "timm", push=NAME)
    assert not are_progress_bars_disabled()
    foreign_hub.fetch(f"hf://{NAME}")
    assert not are_progress_bars_disabled()


def test_what_was_pushed_loads_from_the_hub(
    hub: ModelHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = make_run("mae")
    Path("runs/r/export").mkdir()
    Path("runs/r/export/diary.txt").write_text("mine")
    words = ["export", "runs/r", "--to", "timm", "--push", NAME, "--license", "apache-2.0"]
    assert call(monkeypatch, *words) == 0
    said = capsys.readouterr()
    line = f'timm.create_model("hf-hub:{NAME}", pretrained=True)'
    assert f"    {line}\n" in said.out and TOKEN not in said.out + said.err
    assert said.out.endswith(f"pushed, private: {hub.endpoint}/{NAME}\n")
    found = hub.repositories[NAME]
    assert found.private and sorted(found.files) == ["README.md", "config.json", "model.safetensors"]
    card = found.files["README.md"].decode()
    assert "license: apache-2.0" in card and f'"hf-hub:{NAME}"' in card and "local-dir" not in card
    # who has the folder is told how the folder is loaded
    assert '"local-dir:.", pretrained=True' in Path("runs/r/export/README.md").read_text()
    with torch.no_grad():
        expected = trained.model.features(images())
        model: Any = timm.create_model(f"hf-hub:{NAME}", pretrained=True).eval()
        torch.testing.assert_close(model.forward_features(pixels(images())), expected, rtol=1e-5, atol=1e-5)
    # the same again; transformers' takes its place
    turbomim.export("runs/r", "timm", push=NAME, license="apache-2.0")
    assert sorted(found.files) == ["README.md", "config.json", "model.safetensors"]
    vit, mae = turbomim.export("runs/r", "hf", push=NAME)
    assert vit.url == f"{hub.endpoint}/{NAME}"
    assert mae.line == f'transformers.ViTMAEForPreTraining.from_pretrained("{NAME}", subfolder="mae")'
    assert 'subfolder="mae"' in found.files["mae/README.md"].decode()
    with torch.no_grad():
        theirs: Any = eval(vit.line, {"transformers": transformers})
        tokens = theirs.eval()(pixels(images())).last_hidden_state
        torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)
        assert type(eval(mae.line, {"transformers": transformers})).__name__ == "ViTMAEForPreTraining"


def test_it_is_public_if_that_is_said(hub: ModelHub) -> None:
    make_run("mae")
    turbomim.export("runs/r", "timm", push=NAME, public=True)
    assert not hub.repositories[NAME].private


def test_what_another_export_wrote_beside_it_stays_here(hub: ModelHub) -> None:
    make_run("mae")
    turbomim.export("runs/r", "hf", out="both")
    (encoder,) = turbomim.export("runs/r", "timm", out="both", push=NAME)
    assert sorted(encoder.files) == ["README.md", "config.json", "model.safetensors"]
    assert sorted(hub.repositories[NAME].files) == sorted(encoder.files)


def test_an_import_is_of_a_revision(
    hub: ModelHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program is told by the tensors' names; heads by the config.json beside them."""
    trained = make_run("mae")
    turbomim.export("runs/r", "timm", push=NAME)
    first = hub.repositories[NAME].commit()
    turbomim.export("runs/r", "hf", push=NAME)
    capsys.readouterr()
    for number, (url, form) in enumerate(
        ((f"hf://{NAME}", "hf"), (f"hf://{NAME}@main/mae/model.safetensors", "hf"))
    ):
        name = f"i{number}"
        assert call(monkeypatch, "import", url, "--run.name", name) == 0
        said = capsys.readouterr().out
        assert (
            f"tensors from {url} ({form})" in said and f"--from {form}, by the names of its tensors" in said
        )
        config, model, _ = load_run(Path("runs", name))
        assert config.model.heads == 4
        with torch.no_grad():
            assert torch.equal(model.features(images()), trained.model.features(images()))
        source = json.loads(Path("runs", name, "import.json").read_text())
        commit = hub.repositories[NAME].commit()
        assert source["file"].startswith(f"hf://{NAME}@{commit}/")
        assert begun_in_words(source).startswith(f"{source['file']} ({form})")
        assert ("decoder_embed.weight" in source["taken"]) == ("mae/" in url)
    # the stand-in forgets old commits
    assert call(monkeypatch, "import", f"hf://{NAME}@{first}", "--run.name", "old") == 1
    assert f"{NAME} has no such revision: check what follows the @" in capsys.readouterr().err


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command ends with."""
    capsys.readouterr()
    assert call(monkeypatch, *words) in (1, 2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and TOKEN not in said, said
    return said


def test_what_the_hub_refuses_is_one_line(
    hub: ModelHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run("mae")

    def pushing(name: str, *more: str) -> str:
        return refusal(monkeypatch, capsys, "export", "runs/r", "--to", "timm", "--push", name, *more)

    def importing(url: str) -> str:
        return refusal(monkeypatch, capsys, "import", url, "--run.name", "n")

    assert f"no permission for {OTHER}/x: check the name" in pushing(f"{OTHER}/x")
    for name in ("trees", "Hüber/x", "some body/x", "a-/x", "a/x--y", "a/x.", "a/b/c", f"a/{'x' * 95}"):
        assert f"--push '{name}': must be USER/NAME, at most 96 of a-z" in pushing(name)
    assert "mae is not loaded from the Hub: give --to timm|hf" in refusal(
        monkeypatch, capsys, "export", "runs/r", "--to", "mae", "--push", NAME
    )
    assert "--public is for --push" in refusal(
        monkeypatch, capsys, "export", "runs/r", "--to", "timm", "--public"
    )
    hub.repositories[NAME] = Repository(private=True)
    assert "it is private: make it public in its settings, or leave --public out" in pushing(NAME, "--public")
    hub.repositories[NAME] = Repository(private=False)
    assert "everybody can see it: give --public if that is meant" in pushing(NAME)
    hub.repositories[NAME].files["README.md"] = b"# mine\n"
    assert "its README.md is no model card of ours" in pushing(NAME, "--public")
    assert hub.commits == 0
    assert "there is no model test-people/none, or no permission" in importing(f"hf://{USER}/none")
    assert "has no model.safetensors; files of weights: none" in importing(f"hf://{NAME}")
    assert f"{NAME} has no such file" in importing(f"hf://{NAME}/a.pth")
    hub.repositories[NAME].files["a.pth"] = b"mine"
    Path("file").touch()
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(Path("file/cache").absolute()))
        said = importing(f"hf://{NAME}/a.pth")
    assert "file/cache" in said and "Not a directory; set HF_HOME to a folder that can be written" in said
    assert "names no model: give hf://USER/NAME" in importing("hf://datasets/a/b")
    assert "names no model: give hf://USER/NAME" in importing("hf://a")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert "takes no token from here: run `hf auth login`" in pushing(f"{USER}/y")
    monkeypatch.delenv("HF_TOKEN")
    assert "no token is stored here: run `hf auth login`, or set HF_TOKEN" in pushing(f"{USER}/y")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in importing(f"hf://{NAME}") or huggingface_hub.__version__ < "1"


def test_a_hub_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    said = refusal(monkeypatch, capsys, "import", f"hf://{NAME}", "--run.name", "n")
    assert "http://127.0.0.1:9 cannot be asked, ConnectError: check the network and HF_ENDPOINT" in said or (
        "ConnectionError" in said
    )


def test_a_hub_that_takes_connections_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run("mae")
    monkeypatch.setattr(foreign_hub, "TIMEOUT", 0.3)
    monkeypatch.setattr(push, "TIMEOUT", 0.3)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", f"http://me:S3CRET@{server}")
        for words in (
            ("import", f"hf://{NAME}", "--run.name", "n"),
            ("export", "runs/r", "--to", "timm", "--push", NAME),
        ):
            said = refusal(monkeypatch, capsys, *words)
            assert f"http://{server} does not answer, ReadTimeout: check the network" in said


@pytest.mark.parametrize("asked", ["repos/create", "preupload", "objects/batch", "large", "commit"])
def test_a_hub_that_goes_silent_ends_the_push(
    asked: str, hub: ModelHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After its first answers, in one line and one limit; the next push is whole."""
    make_run("mae")
    words = "export", "runs/r", "--to", "timm", "--push", NAME
    hub.silent = asked
    with monkeypatch.context() as patch:
        patch.setattr(foreign_hub, "SILENCE", 0.4)
        begun = time.monotonic()
        said = refusal(monkeypatch, capsys, *words)
        assert time.monotonic() - begun < 10
    assert f"is not pushed to {NAME}: {hub.endpoint} does not answer, ReadTimeout: check the net" in said
    hub.silent = ""
    assert call(monkeypatch, *words) == 0 and hub.commits == 1
