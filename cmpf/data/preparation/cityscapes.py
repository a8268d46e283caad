# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Cityscapes, by the package cityscapesscripts."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from cmpf.common.files import replacing
from cmpf.data.datasets.catalog import get_spec
from cmpf.data.datasets.spec import DatasetSpec
from cmpf.data.preparation.files import place, stems
from cmpf.data.preparation.spec import Item, Preparation, Step, labels_part, panoptic_part
from cmpf.errors import DatasetError
from cmpf.formats.coco_json import segments_info
from cmpf.formats.label_map import read_panoptic_ids

FOLDER = "cityscapes"
LABEL_IDS = range(34)
OBJECT_IDS = range(24_000, 34_000)  # in *_instanceIds.png: 1000 label id + number of the object
IMAGE, POLYGONS = "_leftImg8bit", "_gtFine_polygons.json"
TRAIN_IDS, PANOPTIC_PNG = "_gtFine_labelTrainIds", "_gtFine_panoptic.png"


class Cityscapes(Preparation):
    """Cityscapes: train-id label maps, and COCO panoptic JSON and PNGs, as the official scripts make them.

    Raw: leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, unpacked in cityscapes/. The package
    cityscapesscripts makes *_gtFine_labelTrainIds.png (createTrainIdLabelImgs) and cityscapes_panoptic_{split}
    (createPanopticImgs), here image by image, so that several processes share the work and a stopped run goes on.
    Evaluation also reads the released *_labelIds.png and *_instanceIds.png.
    """

    title = "Cityscapes"
    download = "https://www.cityscapes-dataset.com/downloads (registration)"
    images: ClassVar[Mapping[str, int]] = {"train": 2_975, "val": 500}

    def raw(self, root: Path, split: str) -> Sequence[Path]:
        """Images and annotations, a folder a town in each."""
        return [root / FOLDER / "leftImg8bit" / split, root / FOLDER / "gtFine" / split]

    def plan(self, root: Path, split: str) -> Sequence[Step]:
        """Label maps of train ids, then panoptic PNGs and their JSON file."""
        _scripts("helpers.labels")  # a missing package is found out before hours of work
        annotations = self.raw(root, split)[1]
        pngs = annotations.with_name(f"cityscapes_panoptic_{split}")
        labels = [
            Item(sources=(path,), targets=(path.with_name(f"{name}{TRAIN_IDS}.png"),))
            for name, path in stems(annotations, POLYGONS, recursive=True).items()
        ]
        panoptic = [
            Item(sources=(path,), targets=(pngs / f"{name}{PANOPTIC_PNG}",))
            for name, path in stems(annotations, "_gtFine_instanceIds.png", recursive=True).items()
        ]
        return [
            Step(title=f"labels of {split}", items=labels, convert=draw_labels),
            Step(
                title=f"panoptic PNGs of {split}",
                items=panoptic,
                convert=draw_segments,
                describe=describe_segments,
                assemble=panoptic_file,
                json=pngs.with_name(f"{pngs.name}.json"),
            ),
        ]

    def parts(self, split: str) -> Sequence[DatasetSpec]:
        """Three kinds of label maps, PNGs and JSON file."""
        spec = get_spec(f"openvocab_cityscapes_fine_panoptic_{split}")
        train_ids, label_ids, instance_ids = (
            labels_part(
                spec, f"gtFine/{split}", what=kind, image_suffix=IMAGE, label_suffix=f"_gtFine_{kind}"
            )
            for kind in ("labelTrainIds", "labelIds", "instanceIds")
        )
        return [
            train_ids,
            _with_values(label_ids, LABEL_IDS),
            _with_values(instance_ids, (*LABEL_IDS, *OBJECT_IDS)),
            panoptic_part(spec),
        ]


def _with_values(part: DatasetSpec, values: Iterable[int]) -> DatasetSpec:
    """Label maps that hold other values than classes; 0 = unlabeled."""
    return replace(part, class_of_id=dict.fromkeys(values, 0), ignore_label=0)


def draw_labels(item: Item) -> None:
    """Polygons -> train ids."""
    script = _scripts("preparation.json2labelImg")
    with replacing(item.target) as temporary, _official(item.source):
        script.json2labelImg(str(item.source), str(temporary), "trainIds")


def draw_segments(item: Item) -> None:
    """Instance ids -> panoptic PNG; the script works on whole folders, so it gets one with one image."""
    script = _scripts("preparation.createPanopticImgs")
    with tempfile.TemporaryDirectory(prefix="cmpf-cityscapes-") as folder:
        place(item.source, Path(folder, "one", "town", item.source.name))
        with _official(item.source):
            script.convert2panoptic(cityscapesPath=folder, outputFolder=folder, setNames=["one"])
        with replacing(item.target) as temporary:
            shutil.copyfile(Path(folder, "cityscapes_panoptic_one", item.target.name), temporary)


def describe_segments(item: Item) -> dict[str, Any]:
    """Image and segments of the PNG; a segment of things that has no number of an object is a crowd."""
    ids = read_panoptic_ids(item.target)
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
            "file_name": f"{name}_gtFine{IMAGE}.png",  # the scripts call it so; readers go by the id
        },
        "annotation": {"image_id": name, "file_name": item.target.name, "segments_info": segments},
    }


def panoptic_file(records: list[dict[str, Any]]) -> dict[str, Any]:
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
