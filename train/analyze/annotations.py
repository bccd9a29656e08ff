"""Annotation files of photographs, COCO's JSON and PASCAL VOC's XML, and which photograph a sample is.

A file that is not of its form is refused; what a published file may well hold is taken: crowds, run-length
masks, photographs without objects, boxes that reach beyond the photograph, names with folders.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np

from turbomim.pipeline.making.photographs import assign_keys, key_characters
from turbomim.pipeline.system.errors import UserError, one_line
from turbomim.pipeline.system.remedies import explain
from turbomim.train.analyze.objects import Objects, Outline, area

# of a key that lost characters of its photograph's path
HASH = re.compile("-(?:[0-9a-f]{8}|[0-9a-f]{16}|[0-9a-f]{32})$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotations:
    """Objects by photograph, its file's name as annotated.

    left_out: how many annotations are not among them, by the reason.
    """

    by_name: dict[str, Objects]
    left_out: dict[str, int]


def read_annotations(path: Path) -> Annotations:
    """Read a COCO file, or a folder of PASCAL VOC's XML files.  Raises UserError if it is neither."""
    return read_voc(path) if path.is_dir() else read_coco(path)


def read_coco(path: Path) -> Annotations:
    """Objects of a COCO JSON file of instances.

    An object's outline is its segmentation's polygons, or its box where it has none (or a run-length mask),
    as far as it lies in the photograph.  Left out: crowds (iscrowd 1), objects without area, annotations of
    photographs that the file does not list.  Raises UserError if the file is not one of COCO's form.
    """
    try:
        tree = json.loads(path.read_bytes())
        images = {image["id"]: image for image in tree["images"]}
        annotations = tree["annotations"]
        names = {key: str(image["file_name"]) for key, image in images.items()}
        found: dict[str, Objects] = {}
        for key, image in images.items():
            _add_photograph(found, names[key], float(image["height"]), float(image["width"]))
        left_out = {"crowd": 0, "without area": 0, "of a photograph that is not listed": 0}
        for place, annotation in enumerate(annotations):
            if annotation["image_id"] not in names:
                left_out["of a photograph that is not listed"] += 1
            elif annotation.get("iscrowd"):
                left_out["crowd"] += 1
            else:
                try:
                    outlines = _outlines(annotation)
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"annotation {annotation.get('id', place)}: {_in_one_line(error)}"
                    ) from error
                left_out["without area"] += not _add_object(found[names[annotation["image_id"]]], outlines)
    except OSError as error:
        raise UserError(f"--boxes {path} cannot be read: {explain(error, 'check the path')}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"--boxes {path} is no COCO file of instances, with images (id, file_name, height, width) and "
            f"annotations (image_id, bbox or polygons): {_in_one_line(error)}"
        ) from error
    return Annotations(by_name=found, left_out=left_out)


def read_voc(folder: Path) -> Annotations:
    """Objects of a folder of PASCAL VOC's XML files, one a photograph, as VOCdevkit's Annotations.

    An object is its bndbox, whose pixels are counted from 1, both ends included; difficult ones count too.
    Raises UserError if the folder has no such files, or one of them is of another form.
    """
    found: dict[str, Objects] = {}
    flat = 0
    for path in sorted(folder.glob("*.xml")):
        try:
            root = ElementTree.parse(path).getroot()
            if root.tag != "annotation":
                raise ValueError(f"it is <{root.tag}>, not <annotation>")
            height, width = (float(_text_below(root, f"size/{side}")) for side in ("height", "width"))
            # the file's own name: some tools leave another one, or a whole path, in it
            objects = _add_photograph(found, path.stem, height, width)
            for each in root.iterfind("object"):
                sides = ("xmin", "ymin", "xmax", "ymax")
                left, top, right, bottom = (float(_text_below(each, f"bndbox/{side}")) for side in sides)
                flat += not _add_object(objects, [_box(left - 1, top - 1, right, bottom)])
        except (OSError, ValueError, ElementTree.ParseError) as error:
            raise UserError(
                f"--boxes {path} is no PASCAL VOC file with size (height, width) and objects (bndbox): "
                f"{_in_one_line(error)}"
            ) from error
    if not found:
        raise UserError(
            f"--boxes {folder} has no .xml files: give a COCO file, or a folder like VOC2012/Annotations"
        )
    return Annotations(by_name=found, left_out={"without area": flat})


def photographs_of(keys: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """The photograph's name of each sample's key that is one of them.

    Folders may differ: `shard make` joins a path's parts by '_', of which the sample or the name may have
    more in front.  Characters that keys cannot have are compared as `shard make` writes them.  A key that
    could be two photographs' is none's.
    """
    names = list(names)
    same = dict(zip(assign_keys(names), names, strict=True))
    whole: dict[str, set[str]] = {}
    # by every end of a name that begins at one of its folders
    ends: dict[str, set[str]] = {}
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/")).with_suffix("").parts
        whole.setdefault(_as_in_a_key(parts), set()).add(name)
        for first in range(1, len(parts)):
            ends.setdefault(_as_in_a_key(parts[first:]), set()).add(name)

    def fitting(key: str) -> set[str]:
        """Names that the key may stand for, by the most that they have in common."""
        for text in dict.fromkeys((key, HASH.sub("", key))):
            words = text.split("_")
            tails = ("_".join(words[first:]) for first in range(len(words)))
            found = next((whole[tail] for tail in tails if tail in whole), ends.get(text))
            if found:
                return found
        return set()

    possible = {key: {same[key]} if key in same else fitting(key) for key in keys}
    return {key: next(iter(found)) for key, found in possible.items() if len(found) == 1}


def _as_in_a_key(parts: Sequence[str]) -> str:
    """Parts of a path without extension as `shard make` writes them into a key."""
    return key_characters("_".join(parts))


def _add_photograph(found: dict[str, Objects], name: str, height: float, width: float) -> Objects:
    """Take in a photograph.  Raises ValueError for one that cannot be, or is there already."""
    if not (0 < height < np.inf and 0 < width < np.inf):
        raise ValueError(f"{name} has {width:g} x {height:g} pixels")
    if name in found:
        raise ValueError(f"two images are called {name}")
    found[name] = Objects(outlines=[], sides=(height, width))
    return found[name]


def _add_object(objects: Objects, outlines: list[Outline]) -> bool:
    """Take in an object of outlines in pixels, as far as it lies in the photograph; False if that is nothing.

    Corners outside are moved to the border: exact for boxes, and for polygons that are outside by rounding.
    """
    inside = [(part / np.array(objects.sides)).clip(0, 1) for part in outlines]
    kept = sum(map(area, inside)) > 0
    if kept:
        objects.outlines.append(inside)
    return kept


def _outlines(annotation: dict[str, Any]) -> list[Outline]:
    """Outlines (V, 2) in pixels (y, x): COCO's are (x, y)."""
    polygons = annotation.get("segmentation")
    if isinstance(polygons, list) and polygons:
        return [np.array(flat, np.float64).reshape(-1, 2)[:, ::-1] for flat in polygons]
    left, top, width, height = map(float, annotation["bbox"])
    return [_box(left, top, left + width, top + height)]


def _box(left: float, top: float, right: float, bottom: float) -> Outline:
    return np.array([[top, left], [top, right], [bottom, right], [bottom, left]])


def _text_below(element: ElementTree.Element, path: str) -> str:
    """The text of an element below.  Raises ValueError if there is none."""
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"{path} is missing")
    return text


def _in_one_line(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else one_line(error, 200)
