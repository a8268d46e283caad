# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Cityscapes, converted by the official package cityscapesscripts."""

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
from cmpf.data.preparation.files import files_by_stem, link_or_copy
from cmpf.data.preparation.spec import Item, Preparation, Step, labels_part, panoptic_part
from cmpf.errors import DatasetError
from cmpf.formats.coco_json import segments_info
from cmpf.formats.label_map import read_panoptic_ids

FOLDER = "cityscapes"
LABEL_IDS = range(34)
INSTANCE_IDS = range(24_000, 34_000)  # in *_instanceIds.png: 1000 * label id + number of the object
IMAGE, POLYGONS = "_leftImg8bit", "_gtFine_polygons.json"
TRAIN_IDS, PANOPTIC_PNG = "_gtFine_labelTrainIds", "_gtFine_panoptic.png"


class Cityscapes(Preparation):
    """Cityscapes: train-id label maps, and COCO panoptic JSON and PNGs, as created by the official scripts.

    Raw data: leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, unpacked in cityscapes/. The package
    cityscapesscripts creates *_gtFine_labelTrainIds.png (createTrainIdLabelImgs) and cityscapes_panoptic_{split}
    (createPanopticImgs). It is called for each image, so that several processes share the work and an interrupted run
    can continue. Evaluation also reads the released *_labelIds.png and *_instanceIds.png.
    """

    title = "Cityscapes"
    download = "https://www.cityscapes-dataset.com/downloads (registration)"
    images: ClassVar[Mapping[str, int]] = {"train": 2_975, "val": 500}

    def raw(self, root: Path, split: str) -> Sequence[Path]:
        """Images and annotations, with a folder per city in each."""
        return [root / FOLDER / "leftImg8bit" / split, root / FOLDER / "gtFine" / split]

    def plan(self, root: Path, split: str) -> Sequence[Step]:
        """Creates label maps of train ids, then panoptic PNGs and their JSON file."""
        _scripts("helpers.labels")  # fail early if the package is missing
        annotations = self.raw(root, split)[1]
        pngs = annotations.with_name(f"cityscapes_panoptic_{split}")
        labels = [
            Item(sources=(path,), targets=(path.with_name(f"{name}{TRAIN_IDS}.png"),))
            for name, path in files_by_stem(annotations, POLYGONS, recursive=True).items()
        ]
        panoptic = [
            Item(sources=(path,), targets=(pngs / f"{name}{PANOPTIC_PNG}",))
            for name, path in files_by_stem(annotations, "_gtFine_instanceIds.png", recursive=True).items()
        ]
        return [
            Step(title=f"labels of {split}", items=labels, convert=convert_semantic),
            Step(
                title=f"panoptic PNGs of {split}",
                items=panoptic,
                convert=convert_panoptic,
                describe=describe_segments,
                assemble=panoptic_file,
                json=pngs.with_name(f"{pngs.name}.json"),
            ),
        ]

    def parts(self, split: str) -> Sequence[DatasetSpec]:
        """The three kinds of label maps, the PNGs and the JSON file."""
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
            _with_values(instance_ids, (*LABEL_IDS, *INSTANCE_IDS)),
            panoptic_part(spec),
        ]


def _with_values(part: DatasetSpec, values: Iterable[int]) -> DatasetSpec:
    """A part whose label maps hold these values instead of class indices; 0 = unlabeled."""
    return replace(part, class_of_id=dict.fromkeys(values, 0), ignore_label=0)


def convert_semantic(item: Item) -> None:
    """Converts polygons to a label map of train ids."""
    script = _scripts("preparation.json2labelImg")
    with replacing(item.target) as temporary, _script_errors(item.source):
        script.json2labelImg(str(item.source), str(temporary), "trainIds")


def convert_panoptic(item: Item) -> None:
    """Converts instance ids to a panoptic PNG; the script converts folders, so it gets one with a single image."""
    script = _scripts("preparation.createPanopticImgs")
    with tempfile.TemporaryDirectory(prefix="cmpf-cityscapes-") as folder:
        link_or_copy(item.source, Path(folder, "one", "city", item.source.name))
        with _script_errors(item.source):
            script.convert2panoptic(cityscapesPath=folder, outputFolder=folder, setNames=["one"])
        with replacing(item.target) as temporary:
            shutil.copyfile(Path(folder, "cityscapes_panoptic_one", item.target.name), temporary)


def describe_segments(item: Item) -> dict[str, Any]:
    """Image entry and annotation; a thing segment without an object number is a crowd."""
    ids = read_panoptic_ids(item.target)
    label_of = _scripts("helpers.labels").id2label
    segments = segments_info(ids, lambda i: i if i < 1000 else i // 1000)
    for segment in segments:
        segment["iscrowd"] = int(segment["id"] < 1000 and label_of[segment["category_id"]].hasInstances)
    name = item.target.name.removesuffix(PANOPTIC_PNG)
    return {
        "image": {
            "id": name,
            "width": ids.shape[1],
            "height": ids.shape[0],
            "file_name": f"{name}_gtFine{IMAGE}.png",  # as the official script writes it; readers use the id
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
    """Imports a module of cityscapesscripts.

    Raises:
        DatasetError: the package is not installed.
    """
    try:
        return import_module(f"cityscapesscripts.{name}")
    except ImportError as error:
        raise DatasetError(
            f"Cityscapes is prepared by the package cityscapesscripts, which cannot be imported ({error}); "
            "pip install 'cmpf[cityscapes]', or pip install cityscapesscripts"
        ) from error


@contextlib.contextmanager
def _script_errors(source: Path) -> Iterator[None]:
    """Suppresses the output of the scripts, and turns their exits and exceptions into a DatasetError."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            yield
    except (SystemExit, LookupError) as error:
        lines = [line for line in output.getvalue().splitlines() if line.startswith("ERROR: ")]
        reason = lines[0].removeprefix("ERROR: ") if lines else repr(error)
        raise DatasetError(f"{source}: cityscapesscripts cannot convert it ({reason})") from error
