# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Cityscapes: train-id label maps, and COCO panoptic JSON and PNGs, as the official scripts make them.

Raw: leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, unpacked in cityscapes/. The package cityscapesscripts
makes *_gtFine_labelTrainIds.png (createTrainIdLabelImgs) and cityscapes_panoptic_{split} (createPanopticImgs), here
image by image, so that several processes share the work and a stopped run goes on. Evaluation also reads the
released *_labelIds.png and *_instanceIds.png.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from preparation import (
    Check,
    Item,
    Preparation,
    Step,
    check_labels,
    check_panoptic,
    place,
    read_ids,
    run,
    segments_info,
    stems,
)

from cmpf.common.files import replacing
from cmpf.errors import DatasetError

FOLDER = "cityscapes"
IGNORE = 255
CLASSES = 19
LABEL_IDS = range(34)
INSTANCE_IDS = frozenset((*LABEL_IDS, *range(24_000, 34_000)))  # of an object: 1000 label id + its number
CATEGORY_IDS = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)  # label ids that are evaluated
IMAGE, POLYGONS = "_leftImg8bit.png", "_gtFine_polygons.json"
LABEL_IDS_PNG, TRAIN_IDS_PNG = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"
INSTANCES_PNG, PANOPTIC_PNG = "_gtFine_instanceIds.png", "_gtFine_panoptic.png"


def raw(root: Path, split: str) -> list[Path]:
    """Images and annotations, a folder a town in each."""
    return [root / FOLDER / "leftImg8bit" / split, root / FOLDER / "gtFine" / split]


def targets(root: Path, split: str) -> tuple[Path, Path]:
    """The JSON file and the folder of its PNGs."""
    name = f"cityscapes_panoptic_{split}"
    return root / FOLDER / "gtFine" / f"{name}.json", root / FOLDER / "gtFine" / name


def plan(root: Path, split: str) -> list[Step]:
    """Label maps of train ids, then panoptic PNGs and their JSON file."""
    _scripts("helpers.labels")  # a missing package is found out before hours of work
    annotations = raw(root, split)[1]
    polygons = stems(annotations, POLYGONS, recursive=True)
    instances = stems(annotations, INSTANCES_PNG, recursive=True)
    if not polygons or not instances:
        raise DatasetError(
            f"{annotations}: no *{POLYGONS if not polygons else INSTANCES_PNG} below it; "
            "unpack gtFine_trainvaltest.zip again"
        )
    json, pngs = targets(root, split)
    labels = [
        Item(sources=(path,), targets=(path.with_name(f"{name}{TRAIN_IDS_PNG}"),))
        for name, path in polygons.items()
    ]
    panoptic = [
        Item(sources=(path,), targets=(pngs / f"{name}{PANOPTIC_PNG}",)) for name, path in instances.items()
    ]
    return [
        Step(title=f"labels of {split}", items=labels, convert=convert_labels),
        Step(
            title=f"panoptic PNGs of {split}",
            items=panoptic,
            convert=convert_panoptic,
            describe=describe,
            assemble=assemble,
            json=json,
        ),
    ]


def convert_labels(item: Item) -> None:
    """Polygons -> train ids."""
    script = _scripts("preparation.json2labelImg")
    with replacing(item.target) as temporary, _official(item.source):
        script.json2labelImg(str(item.source), str(temporary), "trainIds")


def convert_panoptic(item: Item) -> None:
    """Instance ids -> panoptic PNG; the script works on whole folders, so it gets one with one image."""
    script = _scripts("preparation.createPanopticImgs")
    with tempfile.TemporaryDirectory(prefix="cmpf-cityscapes-") as folder:
        place(item.source, Path(folder, "one", "town", item.source.name))
        with _official(item.source):
            script.convert2panoptic(cityscapesPath=folder, outputFolder=folder, setNames=["one"])
        with replacing(item.target) as temporary:
            shutil.copyfile(Path(folder, "cityscapes_panoptic_one", item.target.name), temporary)


def describe(item: Item) -> dict[str, Any]:
    """Image and segments of the PNG; a segment of things that has no number of an object is a crowd."""
    ids = read_ids(item.target)
    label_of = _scripts("helpers.labels").id2label
    segments = segments_info(ids, lambda value: value if value < 1000 else value // 1000)
    for segment in segments:
        segment["iscrowd"] = int(segment["id"] < 1000 and label_of[segment["category_id"]].hasInstances)
    name = item.target.name.removesuffix(PANOPTIC_PNG)
    return {
        "image": {
            "id": name,
            "width": ids.shape[1],
            "height": ids.shape[0],
            "file_name": f"{name}_gtFine{IMAGE}",  # the scripts call it so; readers go by the id
        },
        "annotation": {"image_id": name, "file_name": item.target.name, "segments_info": segments},
    }


def assemble(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The COCO panoptic file."""
    return {
        "images": [record["image"] for record in records],
        "annotations": [record["annotation"] for record in records],
        "categories": [
            {
                "id": label.id,
                "name": label.name,
                "color": label.color,
                "supercategory": label.category,
                "isthing": int(label.hasInstances),
            }
            for label in _scripts("helpers.labels").labels
            if not label.ignoreInEval
        ],
    }


def prepared(root: Path, split: str) -> list[Path]:
    """Images, annotations, JSON file and PNGs."""
    return [*raw(root, split), *targets(root, split)]


def checks(root: Path, split: str) -> list[Check]:
    """Three kinds of label maps, PNGs and JSON file against images."""
    image_folder, annotations, json, pngs = prepared(root, split)
    images = stems(image_folder, IMAGE, recursive=True)
    kinds = (
        ("train ids", TRAIN_IDS_PNG, {*range(CLASSES), IGNORE}, 8),
        ("label ids", LABEL_IDS_PNG, LABEL_IDS, 8),
        ("instance ids", INSTANCES_PNG, INSTANCE_IDS, 16),
    )
    of_labels = [
        check_labels(
            title=f"{kind} of {split}",
            images=images,
            labels=stems(annotations, ending, recursive=True),
            allowed=allowed,
            bits=bits,
        )
        for kind, ending, allowed, bits in kinds
    ]
    of_panoptic = check_panoptic(
        title=f"panoptic PNGs of {split}",
        images={f"{name}{Path(PANOPTIC_PNG).stem}": path for name, path in images.items()},
        json=json,
        folder=pngs,
        category_ids=CATEGORY_IDS,
    )
    return [*of_labels, of_panoptic]


def _scripts(name: str) -> Any:
    """A module of the package.

    Raises:
        DatasetError: it is not installed.
    """
    try:
        return import_module(f"cityscapesscripts.{name}")
    except ImportError as error:
        raise DatasetError(
            f"Cityscapes is prepared by the package cityscapesscripts, which cannot be imported ({error}); "
            "pip install 'cmpf[cityscapes]', or pip install cityscapesscripts"
        ) from error


@contextlib.contextmanager
def _official(source: Path) -> Iterator[None]:
    """Keeps what the scripts print to itself, and turns the ways in which they give up into an error."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            yield
    except (SystemExit, LookupError) as error:
        lines = [line for line in said.getvalue().splitlines() if line.startswith("ERROR: ")]
        reason = lines[0].removeprefix("ERROR: ") if lines else repr(error)
        raise DatasetError(f"{source}: cityscapesscripts cannot convert it ({reason})") from error


PREPARATION = Preparation(
    script="prepare_cityscapes.py",
    title="Cityscapes",
    description=__doc__,
    download="https://www.cityscapes-dataset.com/downloads (registration)",
    images={"train": 2_975, "val": 500},
    raw=raw,
    plan=plan,
    prepared=prepared,
    checks=checks,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    return run(PREPARATION, argv)


if __name__ == "__main__":
    sys.exit(main())
