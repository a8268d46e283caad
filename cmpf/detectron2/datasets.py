# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CMPF's datasets in Detectron2's catalogs, and the vocabularies of datasets that only Detectron2 knows."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode

from cmpf.config import Config
from cmpf.data import Dataset, DatasetSpec, Vocabulary, dataset_names, get_dataset, get_vocabulary
from cmpf.data.datasets.catalog import FILE_PREFIX, locate_dataset
from cmpf.data.datasets.readers.folders import Categories
from cmpf.errors import DatasetError
from cmpf.factory.vocabularies import build_dataset
from cmpf.formats.coco_json import coco_form, read_coco
from cmpf.types import Sample
from cmpf.visualization.palette import class_color

logger = logging.getLogger(__name__)
VOCABULARY_KEY = "vocabulary"  # of a sample: the dataset whose classes are to be looked for
LABEL_DIVISOR = 1000  # Detectron2's name for a COCO convention; CMPF's outputs do not need it
INSTANCES = "json_file"  # Detectron2's name for the file of instances
_THING_IDS, _STUFF_IDS = "thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id"
_EVALUATOR_TYPES = {"panoptic": "coco_panoptic_seg", "semantic": "sem_seg", "instance": "coco"}
# Panoptic datasets whose programs choose evaluators by a word of their own: part of the name -> word.
_PUBLISHED_TYPES = {
    "ade20k_panoptic": "ade20k_panoptic_seg",
    "cityscapes_fine_panoptic": "cityscapes_panoptic_seg",
    "mapillary_vistas_panoptic": "mapillary_vistas_panoptic_seg",
}
_GROUND_TRUTH_FOLDER = "gt_dir"  # of the official Cityscapes scripts
# Detectron2's name -> argument of CMPF's reader, of a dataset's ground truth
_PATHS = {
    "panoptic": {
        "panoptic_json": "annotations",
        "panoptic_root": "panoptic",
        "sem_seg_root": "semantic",
        INSTANCES: "instances",
    },
    "semantic": {"sem_seg_root": "labels"},
    "instance": {INSTANCES: "annotations"},
}


def register_datasets(names: Iterable[str] | None = None) -> None:
    """Enters datasets of CMPF in Detectron2's catalogs; nothing is read before someone asks.

    Args:
        names: as in DATASETS.TRAIN, "file:PATH" among them; None = all of CMPF's table. Those that are
            registered already, by whomever, stay as they are.
    """
    for name in dataset_names() if names is None else names:
        if name not in DatasetCatalog.list():
            DatasetCatalog.register(name, partial(samples_of, name))
        if name not in MetadataCatalog.list():
            MetadataCatalog[name] = DatasetMetadata(name=name)


def instances_file(metadata: Metadata) -> str:
    """The file of instances of a dataset, without the warning that COCOEvaluator gets."""
    metadata.get("thing_classes")  # makes all of them known
    return str(metadata.__dict__.get(f"_{INSTANCES}") or metadata.json_file)


def is_ours(name: str) -> bool:
    """Whether CMPF reads a dataset itself."""
    return name in dataset_names() or name.startswith(FILE_PREFIX)


def samples_of(name: str) -> list[dict[str, Any]]:
    """All samples of a dataset, as Detectron2's mappers and evaluators take them.

    Raises:
        DatasetError: the dataset is not on disk, or damaged.
    """
    dataset = get_dataset(name)
    present = [e for e in dataset.spec.evaluators if _has_truth_of(dataset, e)]
    return [_with_box_modes({**sample, VOCABULARY_KEY: name}) for sample in dataset.samples_for(*present)]


def naming_itself(dataset: Dataset, name: str) -> Dataset:
    """The same dataset, whose samples name it as DATASETS.TEST does: "file:PATH", not the name in the file."""
    read = dataset.spec.reader

    def named(**arguments: Any) -> list[Sample]:
        return [cast(Sample, {**sample, VOCABULARY_KEY: name}) for sample in read(**arguments)]

    return replace(dataset, spec=replace(dataset.spec, reader=named))


def _has_truth_of(dataset: Dataset, evaluator: str) -> bool:
    """Whether all is there that an evaluator of CMPF reads; training goes on without what only others need."""
    return all((dataset.folder / path).exists() for path in dataset.spec.paths_for(evaluator))


def _with_box_modes(sample: dict[str, Any]) -> dict[str, Any]:
    if "annotations" in sample:
        modes = {"bbox_mode": BoxMode.XYWH_ABS}
        sample["annotations"] = [{**annotation, **modes} for annotation in sample["annotations"]]
    return sample


class DatasetMetadata(Metadata):  # type: ignore[misc]
    """Metadata that are looked up when first asked for.

    stuff_classes names all classes; so does thing_classes, unless things come first: then it ends with them, as
    Detectron2's COCOEvaluator wants it (elsewhere use cmpf.detectron2.ThingEvaluator). A class index of any output
    finds its name in either. thing_dataset_id_to_contiguous_id holds the things;
    stuff_dataset_id_to_contiguous_id holds all classes, because Detectron2's semantic evaluator looks every label up
    there. Where things do not come first, a look at json_file is answered with a warning: COCOEvaluator looks at it,
    and would end with a bare AssertionError.
    """

    def __getattr__(self, key: str) -> Any:
        if key in (_THING_IDS, _STUFF_IDS):
            self.__dict__.update(category_ids(locate_dataset(self.__dict__["name"])))
        elif not key.startswith("_") and "thing_classes" not in self.__dict__:
            known = description(locate_dataset(self.__dict__["name"]))
            if known["thing_classes"] == known["stuff_classes"] and INSTANCES in known:
                known[f"_{INSTANCES}"] = known.pop(INSTANCES)
            self.__dict__.update(known)
        if key == INSTANCES and f"_{INSTANCES}" in self.__dict__:
            logger.warning(
                "%s: its things are not the first classes; Detectron2's COCOEvaluator ends with an AssertionError "
                "there, use cmpf.detectron2.ThingEvaluator(%r) in its place",
                self.__dict__["name"],
                self.__dict__["name"],
            )
            return self.__dict__[f"_{INSTANCES}"]
        return self.__dict__[key] if key in self.__dict__ else super().__getattr__(key)


def description(dataset: Dataset) -> dict[str, Any]:
    """Classes and paths of a dataset, which need not be on disk."""
    spec, names, things = dataset.spec, list(dataset.vocabulary.names), dataset.vocabulary.things
    paths = {
        theirs: str(dataset.folder / spec.truth[ours])
        for theirs, ours in _PATHS[spec.kind].items()
        if ours in spec.truth
    }
    if "cityscapes" in spec.evaluators:
        paths[_GROUND_TRUTH_FOLDER] = str(dataset.folder / spec.truth["semantic"])
    things_first = things == tuple(range(len(things)))
    colors = [list(class_color(index)) for index in range(len(names))]
    return {
        "thing_classes": names[: len(things)] if things_first else names,
        "stuff_classes": names,
        "image_root": str(dataset.folder / spec.images),
        "thing_colors": colors[: len(things)] if things_first else colors,
        "stuff_colors": colors,
        "synonyms": [list(words) for words in dataset.vocabulary.classes],
        "evaluator_type": _evaluator_type(spec),
        "ignore_label": spec.ignore_label,
        "label_divisor": LABEL_DIVISOR,
        **paths,
    }


def _evaluator_type(spec: DatasetSpec) -> str:
    """The word by which programs choose evaluators, as published."""
    if "lvis" in spec.evaluators:
        return "lvis"
    published = (word for part, word in _PUBLISHED_TYPES.items() if part in spec.name)
    return next(published, _EVALUATOR_TYPES[spec.kind])


def category_ids(dataset: Dataset) -> dict[str, dict[int, int]]:
    """Category id in the dataset's files -> class index, of things and of all classes.

    Raises:
        DatasetError: the ids stand in a file that cannot be read.
    """
    spec, vocabulary = dataset.spec, dataset.vocabulary
    if spec.class_of_id is not None:
        indices = dict(spec.class_of_id)
    elif "annotations" in spec.truth:
        indices = _ids_by_name(dataset.folder / spec.truth["annotations"], vocabulary)
    else:
        indices = {index: index for index in range(vocabulary.num_classes)}
    things = {identity: index for identity, index in indices.items() if vocabulary.is_thing[index]}
    return {_THING_IDS: things, _STUFF_IDS: indices}


def _ids_by_name(path: Path, vocabulary: Vocabulary) -> dict[int, int]:
    with coco_form(path):
        names = {entry["id"]: entry["name"] for entry in read_coco(path, ("categories",))["categories"]}
    categories = Categories(names, vocabulary, None)
    found = {identity: categories.index(identity) for identity in names}
    return {identity: index for identity, index in found.items() if index is not None}


def vocabulary_of(name: str, *, cfg: Config | None = None) -> Vocabulary:
    """The classes of a dataset of CMPF as a configuration asks for, or of one that another program has registered.

    Of the latter, thing_classes are things and stuff_classes are stuff. Where both lists are equal, things are
    the classes in thing_dataset_id_to_contiguous_id.

    Raises:
        DatasetError: neither knows its classes, or the two lists number different classes alike.
    """
    if is_ours(name):
        return get_vocabulary(name) if cfg is None else build_dataset(cfg, name).vocabulary
    metadata = MetadataCatalog.get(name) if name in MetadataCatalog.list() else Metadata(name=name)
    things, stuff = list(metadata.get("thing_classes") or ()), list(metadata.get("stuff_classes") or ())
    if not things and not stuff:
        raise DatasetError(
            f"{name}: no dataset of CMPF, and Detectron2's MetadataCatalog has no thing_classes or stuff_classes of "
            "it; set them, or take one of cmpf.data.dataset_names()"
        )
    if not things or not stuff:
        return Vocabulary(classes=[[word] for word in things or stuff], things=range(len(things)))
    if things != stuff:
        raise DatasetError(
            f"{name}: class index 0 is {things[0]!r} among its thing_classes and {stuff[0]!r} among its "
            "stuff_classes; set both to the same list of all classes"
        )
    indices = set((metadata.get(_THING_IDS) or {}).values())
    return Vocabulary(classes=[[word] for word in things], things=sorted(indices))
