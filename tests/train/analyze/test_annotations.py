"""Annotations of COCO and PASCAL VOC: what is read, and which photograph of a split it belongs to.

Planted, each seen to fail the test named: x and y exchanged in boxes or in polygons, crowds kept
(`test_coco_files_are_read_as_documented`); parts outside the photograph kept, an annotation of no listed
photograph that ends the command or counts, a photograph without objects forgotten
(`test_instances_as_coco_publishes_them`); VOC's pixels counted from 0, or their last one left out
(`test_a_folder_of_pascal_voc_is_read`); folders in front of a name, or of a key, that must be the same, the
first of two fitting names (`test_folders_of_keys_and_names_may_differ`); hashes compared
(`test_keys_of_strange_names_are_those_of_shard_make`); keys of foreign tars always up to the last dot
(`test_photographs_of_foreign_tars_are_found_by_their_keys`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.calls import call
from tests.pipeline.tars.tar_bytes import write_tar

from turbomim.benchmarks.write_split import texture
from turbomim.pipeline.making.index_tars import index_tars
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.photographs import assign_keys
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.analyze.annotations import Annotations, photographs_of, read_coco, read_voc
from turbomim.train.analyze.coverage import match_objects
from turbomim.train.analyze.objects import Objects, area


def coco(folder: Path, **changes: Any) -> dict[str, Any]:
    """Annotations of two photographs of `photo_folder`."""
    paths = sorted(folder.glob("*/tree_0[12].jpg"))
    images = []
    for number, path in enumerate(paths):
        width, height = Image.open(path).size
        name = str(path.relative_to(folder))
        images.append({"id": number, "file_name": name, "height": height, "width": width})
    annotations = [
        {"image_id": 0, "bbox": [10, 5, 20, 30], "iscrowd": 0},
        {"image_id": 1, "bbox": [0, 0, 9, 9], "segmentation": [[0, 0, 9, 0, 9, 5], [20, 20, 24, 20, 20, 24]]},
        {"image_id": 1, "bbox": [1, 2, 3, 4], "segmentation": {"counts": "x", "size": [9, 9]}},
        {"image_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 1, "segmentation": {"counts": "x"}},
        {"image_id": 1, "bbox": [1, 2, 0, 4]},
    ]
    return {"images": images, "annotations": annotations} | changes


def test_coco_files_are_read_as_documented(photo_folder: Path, tmp_path: Path) -> None:
    tree = coco(photo_folder)
    (tmp_path / "a.json").write_text(json.dumps(tree))
    found = read_coco(tmp_path / "a.json").by_name
    assert list(found) == ["ash/tree_01.jpg", "ash/tree_02.jpg"]
    one, two = found.values()
    height, width = one.sides
    (box,) = one.outlines[0]
    assert abs(area(box) - 600 / (height * width)) < 1e-12
    np.testing.assert_allclose(box.min(0) * (height, width), (5, 10))
    np.testing.assert_allclose(box.max(0) * (height, width), (35, 30))
    np.testing.assert_allclose(two.outlines[0][0].max(0) * two.sides, (5, 9))
    # a triangle of 22.5 and one of 8 pixels; a run-length mask's box; no crowd, nothing flat
    areas = [sum(map(area, outlines)) * two.sides[0] * two.sides[1] for outlines in two.outlines]
    np.testing.assert_allclose(areas, [30.5, 12])


@pytest.mark.parametrize(
    ("members", "names"),
    [
        (("img_v1.000.jpg", "img_v1.001.jpg"), ("img_v1.000.jpg", "img_v1.001.jpg")),
        (("a.input.jpg", "a.json", "b.input.jpg", "b.json"), ("a.jpg", "b.jpg")),
    ],
)
def test_photographs_of_foreign_tars_are_found_by_their_keys(
    members: tuple[str, ...], names: tuple[str, ...], photo_folder: Path, tmp_path: Path
) -> None:
    image = (photo_folder / "ash" / "tree_00.jpg").read_bytes()
    write_tar(tmp_path / "a.tar", [(member, image) for member in members])
    index_tars(tmp_path)
    objects = Objects(outlines=[[np.eye(3, 2)]], sides=(1, 1))
    annotated = Annotations(by_name=dict.fromkeys(names, objects), left_out={})
    assert sorted(match_objects(open_split(tmp_path), np.arange(2), annotated)) == [0, 1]


def test_photographs_are_found_by_their_names(tiny_split: Split, photo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(coco(photo_folder)))
    annotated = read_coco(tmp_path / "a.json")
    ids = np.arange(33)
    found = match_objects(tiny_split, ids, annotated)
    assert sorted(tiny_split.locate(sample).split(":")[1] for sample in found) == [
        "ash_tree_01.jpg",
        "ash_tree_02.jpg",
    ]
    # names without their folder
    one = next(iter(annotated.by_name.values()))
    for before in ("", "photos/ash/", "C:\\photos\\ash\\"):
        others = {name.replace("ash/", before): objects for name, objects in annotated.by_name.items()}
        assert match_objects(tiny_split, ids, Annotations(by_name=others, left_out={})).keys() == found.keys()
    with pytest.raises(UserError, match=r"none of 33 samples .* \(the first is other.jpg\)"):
        match_objects(tiny_split, ids, Annotations(by_name={"other.jpg": one}, left_out={}))
    empty = Objects(outlines=[], sides=one.sides)
    with pytest.raises(UserError, match=r"none of the 1 samples .* has an object"):
        match_objects(tiny_split, ids, Annotations(by_name={"ash/tree_01.jpg": empty}, left_out={}))


@pytest.mark.parametrize(
    ("key", "names", "expected"),
    [
        ("000000397133", ["val2017/000000397133.jpg", "val2017/000000397134.jpg"], 0),
        ("val2017_000000397133", ["000000397133.jpg"], 0),
        ("ash_b_01", ["01.jpg", "b_01.jpg"], 1),
        # two photographs of one name, in folders that the sample does not tell
        ("01", ["a/01.jpg", "b/01.jpg"], None),
        ("01", ["a/01.jpg", "01.png"], 1),
        ("397133", ["000000397133.jpg"], None),
        # another folder is another photograph
        ("ash_01", ["birch/01.jpg"], None),
    ],
)
def test_folders_of_keys_and_names_may_differ(key: str, names: list[str], expected: int | None) -> None:
    assert photographs_of([key], names) == ({} if expected is None else {key: names[expected]})


def test_keys_of_strange_names_are_those_of_shard_make() -> None:
    names = ["my photo (1).jpg", "über.jpg", "same.jpg", "same.png", "x/very" + "-long" * 20 + ".jpg"]
    keys = assign_keys(names)
    assert photographs_of(keys, names) == dict(zip(keys, names, strict=True))
    # made from the folder above, of which the annotations do not know: the hash is another
    keys = assign_keys([f"p/{name}" for name in names])[:2]
    assert photographs_of(keys, names) == dict(zip(keys, names[:2], strict=True))


INSTANCES = """{"info": {"description": "Two photographs", "url": "", "version": "1.0", "year": 2026,
 "contributor": "", "date_created": "2026/01/02"},
"licenses": [{"url": "", "id": 1, "name": "Attribution License"}],
"images": [
 {"license": 1, "file_name": "000000000139.jpg", "coco_url": "", "height": 60, "width": 80,
  "date_captured": "2026-01-02 00:00:00", "flickr_url": "", "id": 139},
 {"license": 1, "file_name": "000000000285.jpg", "coco_url": "", "height": 60, "width": 80,
  "date_captured": "2026-01-02 00:00:00", "flickr_url": "", "id": 285},
 {"license": 1, "file_name": "000000000632.jpg", "coco_url": "", "height": 60, "width": 80,
  "date_captured": "2026-01-02 00:00:00", "flickr_url": "", "id": 632}],
"annotations": [
 {"segmentation": [[10.0, 10.0, 30.0, 10.0, 30.0, 25.5, 10.0, 25.5]], "area": 310.0, "iscrowd": 0,
  "image_id": 139, "bbox": [10.0, 10.0, 20.0, 15.5], "category_id": 64, "id": 26547},
 {"segmentation": [[60.0, 40.0, 80.02, 40.0, 80.02, 60.01, 60.0, 60.01], [0.0, 0.0, 4.0, 0.0, 0.0, 4.0]],
  "area": 408.0, "iscrowd": 0, "image_id": 139, "bbox": [0.0, 0.0, 80.02, 60.01], "category_id": 72,
  "id": 34646},
 {"segmentation": {"counts": [2000, 40, 2760], "size": [60, 80]}, "area": 40, "iscrowd": 1,
  "image_id": 139, "bbox": [33, 20, 1, 40], "category_id": 1, "id": 900100000139},
 {"segmentation": {"counts": "PPYo1", "size": [60, 80]}, "area": 300, "iscrowd": 0,
  "image_id": 285, "bbox": [70.5, -0.25, 12.0, 20.25], "category_id": 23, "id": 580},
 {"segmentation": [[100.0, 10.0, 110.0, 10.0, 110.0, 20.0]], "area": 50.0, "iscrowd": 0,
  "image_id": 285, "bbox": [100.0, 10.0, 10.0, 10.0], "category_id": 64, "id": 581},
 {"segmentation": [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]], "area": 32.0, "iscrowd": 0,
  "image_id": 724, "bbox": [1.0, 1.0, 8.0, 8.0], "category_id": 13, "id": 900}],
"categories": [{"supercategory": "person", "id": 1, "name": "person"}]}
"""


def coco_split(folder: Path) -> Split:
    """The photographs of INSTANCES as `shard make` packs COCO's flat folder, and one more."""
    (folder / "val2017").mkdir()
    for seed, name in enumerate(("000000000139", "000000000285", "000000000632", "000000000724")):
        Image.fromarray(texture(seed, 60, 80)).save(folder / "val2017" / f"{name}.jpg")
    make_shards(folder / "val2017", folder / "shards")
    return open_split(folder / "shards")


def test_instances_as_coco_publishes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    split = coco_split(tmp_path)
    file = tmp_path / "instances_val2017.json"
    file.write_text(INSTANCES)
    found = read_coco(file)
    left = {"crowd": 1, "without area": 1, "of a photograph that is not listed": 1}
    assert found.left_out == left
    areas = {
        name: [sum(map(area, outlines)) * 4800 for outlines in objects.outlines]
        for name, objects in found.by_name.items()
    }
    # a polygon; two of one object, one of them cut at the border; of a run-length mask the box, cut; nothing
    assert areas == {
        "000000000139.jpg": [pytest.approx(310), pytest.approx(400 + 8)],
        "000000000285.jpg": [pytest.approx(9.5 * 20)],
        "000000000632.jpg": [],
    }
    assert all(
        (part >= 0).all() and (part <= 1).all()
        for objects in found.by_name.values()
        for outlines in objects.outlines
        for part in outlines
    )
    assert len(match_objects(split, np.arange(4), found)) == 3
    # with COCO's folder in the names, as other tools write them
    tree = json.loads(INSTANCES)
    for image in tree["images"]:
        image["file_name"] = f"val2017/{image['file_name']}"
    file.write_text(json.dumps(tree))
    assert len(match_objects(split, np.arange(4), read_coco(file))) == 3
    words = ["--data", str(split.folder), "--boxes", str(file), "--size", "64", "--out", str(tmp_path / "o")]
    assert call(monkeypatch, "analyze", "coverage", *words) == 0
    settings = json.loads((tmp_path / "o" / "coverage.json").read_text())["settings"]
    assert (settings["annotated"], settings["objects"], settings["left_out"]) == (3, 3, left)
    assert f"annotations left out of {file}: 1 crowd\n" in capsys.readouterr().out


def test_a_folder_of_pascal_voc_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    split = coco_split(tmp_path)
    (tmp_path / "Annotations").mkdir()
    file = tmp_path / "Annotations" / "000000000139.xml"
    box = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
    part = f"<part><name>head</name>{box.format(1, 1, 2, 2)}</part>"
    text = (
        "<annotation><folder>VOC2012</folder><filename>000000000139.jpg</filename>"
        "<size><width>80</width><height>60</height><depth>3</depth></size><segmented>0</segmented>"
        f"<object><name>person</name><difficult>0</difficult>{box.format(11, 21, 30, 40)}{part}</object>"
        f"<object><name>dog</name><difficult>1</difficult>{box.format('1.0', 1, 80, 60)}</object>"
        "</annotation>"
    )
    file.write_text(text)
    (objects,) = read_voc(file.parent).by_name.values()
    # pixels 11 to 30 are twenty of them
    assert [sum(map(area, outlines)) * 4800 for outlines in objects.outlines] == pytest.approx([400, 4800])
    np.testing.assert_allclose(objects.outlines[0][0].min(0) * (60, 80), (20, 10))
    assert len(match_objects(split, np.arange(4), read_voc(file.parent))) == 1
    words = ["--data", str(split.folder), "--boxes", str(file.parent), "--out", str(tmp_path / "o")]
    for broken, message in (
        (text[:-20], "is no PASCAL VOC file with size"),
        (text.replace("<xmin>", "<x>").replace("</xmin>", "</x>"), "bndbox/xmin is missing"),
        (text.replace("annotation>", "svg>"), "it is <svg>, not <annotation>"),
        (None, "has no .xml files"),
    ):
        file.write_text(broken) if broken else file.unlink()
        assert call(monkeypatch, "analyze", "coverage", *words) == 1
        err = capsys.readouterr().err
        assert message in err and len(err.splitlines()) == 1
