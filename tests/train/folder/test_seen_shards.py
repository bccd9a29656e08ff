"""A shard of a store that is another object when a run goes on: hashed, and refused if its bytes are others.

Planted, each seen to fail: versions that nobody notes, or compares; a hash that nobody compares; a shard that
is hashed at every start; a new run that is held to the versions of an old one.
"""

import dataclasses
import json
from pathlib import Path

import pytest
from tests.pipeline.tars.counted_place import CountedPlace
from tests.runs import config_for, quiet

from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.folder.seen_shards import FILE, check_seen
from turbomim.train.pretrain.pretrain import pretrain


def far(split: Split, place: CountedPlace) -> Split:
    """A split as if it were in a store, with the versions that its shards have there now."""
    names = [shard.name for shard in split.manifest.shards]
    return dataclasses.replace(split, tars=place, versions=tuple(place.versions.get(n, "") for n in names))


@pytest.fixture
def place(own_split: Split) -> CountedPlace:
    found = CountedPlace(own_split.folder)
    found.versions = {shard.name: "v1" for shard in own_split.manifest.shards}
    return found


def test_one_that_was_put_there_again_is_hashed_once(
    own_split: Split, place: CountedPlace, tmp_path: Path
) -> None:
    name = own_split.manifest.shards[1].name
    # a dry run notes nothing
    assert check_seen(tmp_path, [far(own_split, place)], resumed=False, note=False) == []
    assert not (tmp_path / FILE).exists()
    for resumed in (False, True):
        assert check_seen(tmp_path, [far(own_split, place), own_split], resumed=resumed) == []
    place.versions[name] = "v2"
    (line,) = check_seen(tmp_path, [far(own_split, place)], resumed=True)
    assert line == f"{place.at(name)!r} is another object than before, with the bytes of the manifest"
    assert dict(place.bytes) == {name: own_split.manifest.shards[1].bytes}
    assert check_seen(tmp_path, [far(own_split, place)], resumed=True) == []
    assert place.bytes.total() == own_split.manifest.shards[1].bytes
    assert json.loads((tmp_path / FILE).read_text())[str(place)][name] == "v2"


def test_other_bytes_are_refused_until_the_old_ones_are_back(
    own_split: Split, place: CountedPlace, tmp_path: Path
) -> None:
    shard = own_split.manifest.shards[2]
    check_seen(tmp_path, [far(own_split, place)], resumed=False)
    path, before = own_split.shard_path(2), own_split.shard_path(2).read_bytes()
    path.write_bytes(before[:700] + bytes([before[700] ^ 1]) + before[701:])
    place.versions[shard.name] = "v2"
    for _ in range(2):
        with pytest.raises(UserError, match=r"was replaced since this run .*not the shard of the manifest"):
            check_seen(tmp_path, [far(own_split, place)], resumed=True)
    path.write_bytes(before)
    place.versions[shard.name] = "v3"
    assert len(check_seen(tmp_path, [far(own_split, place)], resumed=True)) == 1
    # a new run has seen nothing
    place.versions[shard.name] = "v4"
    path.write_bytes(bytes(len(before)))
    assert check_seen(tmp_path, [far(own_split, place)], resumed=False) == []


def test_one_that_nobody_hashed_is_refused(own_split: Split, place: CountedPlace, tmp_path: Path) -> None:
    shards = tuple(dataclasses.replace(shard, sha256="") for shard in own_split.manifest.shards)
    split = dataclasses.replace(own_split, manifest=dataclasses.replace(own_split.manifest, shards=shards))
    check_seen(tmp_path, [far(split, place)], resumed=False)
    place.versions[shards[0].name] = "v2"
    with pytest.raises(UserError, match="nobody knows the sha256 that it must have: put the old object back"):
        check_seen(tmp_path, [far(split, place)], resumed=True)


def test_a_run_goes_on_with_its_own_shards_alone(tiny_split: Split, s3: str, tmp_path: Path) -> None:
    store = open_place(s3)
    for path in sorted(tiny_split.folder.iterdir()):
        store.put(path.name, path)
    name = tiny_split.manifest.shards[0].name
    content = (tiny_split.folder / name).read_bytes()
    config = config_for(Path(), tmp_path, data={"path": s3}, optim={"epochs": 1})
    assert pretrain(config, console=quiet()).status == "done"
    store.put(name, content[:-1] + b"x")
    with pytest.raises(UserError, match=rf"'{s3}/{name}' was replaced since this run read it"):
        pretrain(config, console=quiet())
    store.put(name, content)
    assert pretrain(config, console=quiet()).status == "done"
