# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Registers CMPF's datasets in Detectron2's catalogs, and reads the vocabularies of other registered datasets."""

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
VOCABULARY_KEY = "vocabulary"  # key of samples: the dataset whose classes are used
LABEL_DIVISOR = 1000  # metadata that Detectron2 expects; CMPF's outputs do not use it
INSTANCES = "json_file"  # Detectron2's metadata key of the file with instances
_THING_IDS, _STUFF_IDS = "thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id"
_EVALUATOR_TYPES = {"panoptic": "coco_panoptic_seg", "semantic": "sem_seg", "instance": "coco"}
# Panoptic datasets with an evaluator_type of their own: part of the name -> evaluator_type.
_PUBLISHED_TYPES = {
    "ade20k_panoptic": "ade20k_panoptic_seg",
    "cityscapes_fine_panoptic": "cityscapes_panoptic_seg",
    "mapillary_vistas_panoptic": "mapillary_vistas_panoptic_seg",
}
_GROUND_TRUTH_FOLDER = "gt_dir"  # metadata key of Cityscapes' ground truth
# Kind of dataset -> Detectron2's metadata key -> argument of CMPF's reader.
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
    """Registers CMPF's datasets in Detectron2's catalogs; files are read on first access.

    Args:
        names: names as in DATASETS.TRAIN, including "file:PATH"; None = all built-in datasets. Names that are already
            registered are skipped.
    """
    for name in dataset_names() if names is None else names:
        if name not in DatasetCatalog.list():
            DatasetCatalog.register(name, partial(samples_of, name))
        if name not in MetadataCatalog.list():
            MetadataCatalog[name] = DatasetMetadata(name=name)


def instances_file(metadata: Metadata) -> str:
    """The file with a dataset's instances, without the warning of DatasetMetadata."""
    metadata.get("thing_classes")  # loads the metadata
    return str(metadata.__dict__.get(f"_{INSTANCES}") or metadata.json_file)


def is_ours(name: str) -> bool:
    """Whether a dataset is CMPF's, not one that another program has registered."""
    return name in dataset_names() or name.startswith(FILE_PREFIX)


def samples_of(name: str) -> list[dict[str, Any]]:
    """All samples of a dataset in the format of Detectron2's mappers and evaluators.

    Raises:
        DatasetError: the dataset is not on disk or damaged.
    """
    dataset = get_dataset(name)
    present = [e for e in dataset.spec.evaluators if _has_truth_of(dataset, e)]
    return [_with_box_modes({**sample, VOCABULARY_KEY: name}) for sample in dataset.samples_for(*present)]


def naming_itself(dataset: Dataset, name: str) -> Dataset:
    """The same dataset with samples that name it as DATASETS.TEST does ("file:PATH", not the name in the file)."""
    read = dataset.spec.reader

    def read_named(**arguments: Any) -> list[Sample]:
        return [cast(Sample, {**sample, VOCABULARY_KEY: name}) for sample in read(**arguments)]

    return replace(dataset, spec=replace(dataset.spec, reader=read_named))


def _has_truth_of(dataset: Dataset, evaluator: str) -> bool:
    """Whether the ground truth of one of CMPF's evaluators is on disk; training does not need all of it."""
    return all((dataset.folder / path).exists() for path in dataset.spec.paths_for(evaluator))


def _with_box_modes(sample: dict[str, Any]) -> dict[str, Any]:
    if "annotations" in sample:
        modes = {"bbox_mode": BoxMode.XYWH_ABS}
        sample["annotations"] = [{**annotation, **modes} for annotation in sample["annotations"]]
    return sample


class DatasetMetadata(Metadata):  # type: ignore[misc]
    """Metadata that are loaded on first access.

    `stuff_classes` has all classes, `thing_classes` has the things if they come first, as Detectron2's COCOEvaluator
    needs them, otherwise all classes (then use cmpf.detectron2.ThingEvaluator). Class indices of all outputs are valid
    in both. `thing_dataset_id_to_contiguous_id` has the things, `stuff_dataset_id_to_contiguous_id` all classes,
    because Detectron2's semantic evaluator looks up every label there. If things do not come first, reading `json_file`
    logs a warning: COCOEvaluator reads it and would fail with a bare AssertionError.
    """

    def __getattr__(self, key: str) -> Any:
        if key in (_THING_IDS, _STUFF_IDS):
            self.__dict__.update(category_ids(locate_dataset(self.__dict__["name"])))
        elif not key.startswith("_") and "thing_classes" not in self.__dict__:
            metadata = description(locate_dataset(self.__dict__["name"]))
            if metadata["thing_classes"] == metadata["stuff_classes"] and INSTANCES in metadata:
                metadata[f"_{INSTANCES}"] = metadata.pop(INSTANCES)
            self.__dict__.update(metadata)
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
    """Metadata of a dataset, which need not be on disk: classes, colors and paths."""
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
    """The metadata evaluator_type, by which programs select evaluators."""
    if "lvis" in spec.evaluators:
        return "lvis"
    published = (value for part, value in _PUBLISHED_TYPES.items() if part in spec.name)
    return next(published, _EVALUATOR_TYPES[spec.kind])


def category_ids(dataset: Dataset) -> dict[str, dict[int, int]]:
    """Mappings from category ids in the dataset's files to class indices, for things and for all classes.

    Raises:
        DatasetError: the file with the category ids cannot be read.
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
    indices = {identity: categories.index(identity) for identity in names}
    return {identity: index for identity, index in indices.items() if index is not None}


def vocabulary_of(name: str, *, cfg: Config | None = None) -> Vocabulary:
    """The vocabulary of one of CMPF's datasets, or of a dataset that another program has registered.

    For the latter, thing_classes are things and stuff_classes are stuff; if both lists are equal, the classes in
    thing_dataset_id_to_contiguous_id are things.

    Args:
        name: name of the dataset.
        cfg: selects the class names of CMPF's datasets; None = their own.
    Raises:
        DatasetError: the dataset has no classes, or its two lists have different classes at the same index.
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
