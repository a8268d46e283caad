# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Readers of COCO panoptic, COCO instances and LVIS."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmpf.data.datasets.issues import IssueKind, Issues
from cmpf.data.datasets.readers.folders import Categories, check_class_of_id, check_files
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import ImageError
from cmpf.formats import coco_json
from cmpf.formats.coco_json import LISTS, TEST_LISTS, coco_form, image_name, lvis_image_name, read_coco
from cmpf.formats.image import read_image_size
from cmpf.formats.masks import segmentation_issue
from cmpf.types import Sample, SegmentInfo


def _stem_png(image: Mapping[str, Any]) -> str:
    return f"{Path(image['file_name']).stem}.png"


@dataclass(frozen=True)
class FileNames:
    """How a dataset names its files: entry of `images` in the JSON file -> path below the folder.

    image: below the folder of images. semantic: below the folder of label maps.
    image_of_png: `file_name` of an entry of `annotations` -> `file_name` of its image, where entries of `images` cannot
        be relied on: they may name something else, and leave sizes out.
    """

    image: Callable[[Mapping[str, Any]], str] = image_name
    semantic: Callable[[Mapping[str, Any]], str] = _stem_png
    image_of_png: Callable[[str], str] | None = None

    def complete(self, content: Mapping[str, Any], folder: Path) -> None:
        """Corrects the entries of `images` of a panoptic file as image_of_png says; sizes are those of the files.

        Entries that are not in COCO's form stay as they are. An image that cannot be opened gets the size 1 x 1;
        whoever opens it next says why.
        """
        if self.image_of_png is None:
            return
        images, annotations = (
            [e for e in content[k] if isinstance(e, dict)] for k in ("images", "annotations")
        )
        known = [e for e in annotations if {"image_id", "file_name"} <= e.keys()]
        pngs = {e["image_id"]: e["file_name"] for e in known if isinstance(e["image_id"], int | str)}
        for image in images:
            if isinstance(image.get("id"), int | str) and image["id"] in pngs:
                image["file_name"] = self.image_of_png(pngs[image["id"]])
                if not {"height", "width"} <= image.keys():
                    image["height"], image["width"] = _size(folder / self.image(image))


def _size(path: Path) -> tuple[int, int]:
    try:
        return read_image_size(path)
    except ImageError:
        return 1, 1


COCO_NAMES = FileNames()


def read_coco_panoptic(
    *,
    images: Path,
    annotations: Path,
    panoptic: Path,
    vocabulary: Vocabulary,
    semantic: Path | None = None,
    instances: Path | None = None,
    class_of_id: Mapping[int, int] | None = None,
    names: FileNames = COCO_NAMES,
) -> list[Sample]:
    """Samples of a dataset in COCO panoptic layout, in the order of the JSON file.

    Args:
        images: folder of the images.
        annotations: COCO panoptic JSON.
        panoptic: folder of the panoptic PNGs.
        vocabulary: gives the class indices.
        semantic: folder of label PNGs, by default paired with the images by stem; None = no
            `sem_seg_file_name`.
        instances: COCO instances JSON of the same images, with the same ids or at least the same stems;
            None = no `annotations`.
        class_of_id: category id of the JSON files -> class index; None = categories are found by their name
            among the words of the vocabulary.
        names: for datasets whose JSON file does not name the files as they are.
    Returns:
        Samples with file_name, image_id, height, width, pan_seg_file_name, segments_info and, where asked
        for, sem_seg_file_name and annotations. No image is opened, but for sizes that the file leaves out.
    Raises:
        DatasetError: a file is no COCO JSON; or images without annotation, annotations without image,
            doubled ids or files, missing files, unknown categories: all in one message, the first few of each
            by name.
    """
    issues = Issues()
    check_class_of_id(class_of_id, vocabulary, annotations, issues)
    content = read_coco(annotations)
    with coco_form(annotations):
        names.complete(content, images)
        categories = Categories(content, vocabulary, class_of_id)
        samples = _image_samples(content, images, names.image, annotations, issues)
        if semantic is not None:
            for image in content["images"]:
                samples[image["id"]]["sem_seg_file_name"] = str(semantic / names.semantic(image))
        _add_segments(samples, content, annotations, panoptic, categories, issues)
    categories.report(annotations, issues)
    if instances is not None:
        beside = read_coco(instances, ("annotations", "categories"))
        with coco_form(instances):
            categories = Categories(beside, vocabulary, class_of_id)
            _add_instances(_by_id_or_stem(samples, beside), beside, instances, categories, issues)
    return _checked(samples, annotations, issues)


def read_coco_instances(
    *,
    images: Path,
    annotations: Path,
    vocabulary: Vocabulary,
    class_of_id: Mapping[int, int] | None = None,
) -> list[Sample]:
    """Samples of a dataset in COCO instances layout, in the order of the JSON file.

    Args:
        annotations: COCO instances JSON; the others as in read_coco_panoptic.
    Returns:
        Samples with file_name, image_id, height, width and `annotations`, crowds among them; images without
        an object have an empty list. No image is opened.
    Raises:
        DatasetError: the file is no COCO JSON; or annotations without image, doubled ids, missing files,
            unknown categories, unusable masks: all in one message, the first few of each by name.
    """
    return _read_instances(images, annotations, vocabulary, class_of_id)


def read_lvis(
    *,
    images: Path,
    annotations: Path,
    vocabulary: Vocabulary,
    class_of_id: Mapping[int, int] | None = None,
    annotated: bool = True,
) -> list[Sample]:
    """Samples of an LVIS file: as read_coco_instances, and with what LVIS's AP needs.

    Samples also have neg_category_ids (classes known to be absent) and not_exhaustive_category_ids (classes of which
    not every object is marked), as class indices. See lvis_image_name for the files of the images.

    Args:
        annotated: False = the file lists images of a test split, whose ground truth nobody has: samples have none.
    """
    return _read_instances(images, annotations, vocabulary, class_of_id, lvis=True, annotated=annotated)


def _read_instances(
    images: Path,
    annotations: Path,
    vocabulary: Vocabulary,
    class_of_id: Mapping[int, int] | None,
    *,
    lvis: bool = False,
    annotated: bool = True,
) -> list[Sample]:
    issues = Issues()
    check_class_of_id(class_of_id, vocabulary, annotations, issues)
    content = read_coco(annotations, LISTS if annotated else TEST_LISTS)
    with coco_form(annotations):
        categories = Categories(content, vocabulary, class_of_id)
        samples = _image_samples(
            content, images, lvis_image_name if lvis else image_name, annotations, issues
        )
        for image in content["images"] if lvis and annotated else ():
            for key in coco_json.LVIS_LISTS:
                samples[image["id"]][key] = categories.indices(image[key], f"{key} of image {image['id']}")  # type: ignore[literal-required]
        if annotated:
            _add_instances(samples, content, annotations, categories, issues)
    return _checked(samples, annotations, issues)


def _image_samples(
    content: Mapping[str, Any],
    folder: Path,
    name: Callable[[Mapping[str, Any]], str],
    source: Path,
    issues: Issues,
) -> dict[int | str, Sample]:
    """Image id -> sample with file_name, image_id, height and width, for each entry of `images`."""
    samples: dict[int | str, Sample] = {}
    for image in content["images"]:
        samples[image["id"]] = {
            "file_name": str(folder / name(image)),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
        }
    issues.add_doubles(source, "image id {}", (image["id"] for image in content["images"]))
    return samples


def _checked(samples: dict[int | str, Sample], source: Path, issues: Issues) -> list[Sample]:
    """All samples, where there is no issue."""
    check_files(samples.values(), issues)
    issues.raise_any(source)
    return list(samples.values())


def _add_segments(
    samples: Mapping[int | str, Sample],
    content: Mapping[str, Any],
    source: Path,
    panoptic: Path,
    categories: Categories,
    issues: Issues,
) -> None:
    """Puts the entries of `annotations` into the samples, and takes their segments out of `content`."""
    for annotation in content["annotations"]:
        sample = samples.get(annotation["image_id"])
        name = annotation["file_name"]
        if sample is None:
            message = f"annotation {name} is of image {annotation['image_id']}, not in images"
            issues.add(IssueKind.UNPAIRED, source, message)
            continue
        if "segments_info" in sample:
            issues.add(IssueKind.TWICE, source, f"image {sample['image_id']} has two annotations")
        sample["pan_seg_file_name"] = str(panoptic / name)
        segments = annotation.pop("segments_info")
        issues.add_doubles(source, f"segment id {{}} of {name}", [segment["id"] for segment in segments])
        sample["segments_info"] = list(_segments(segments, name, categories))
    for sample in samples.values():
        if "segments_info" not in sample:
            issues.add(IssueKind.UNPAIRED, Path(sample["file_name"]), f"has no annotation in {source.name}")


def _segments(
    entries: Iterable[Mapping[str, Any]], user: str, categories: Categories
) -> Iterator[SegmentInfo]:
    for entry in entries:
        index = categories.index(entry["category_id"], user)
        if index is None:
            continue
        segment: SegmentInfo = {
            "id": entry["id"],
            "category_id": index,
            "isthing": categories.is_thing[index],
            "iscrowd": entry.get("iscrowd", 0),
        }
        if "area" in entry:
            segment["area"] = entry["area"]
        if "bbox" in entry:
            segment["bbox"] = entry["bbox"]
        yield segment


def _by_id_or_stem(
    samples: Mapping[int | str, Sample], content: Mapping[str, Any]
) -> dict[int | str, Sample]:
    """Image id of an instances file -> sample. Ids may differ: ADE20K's two files are made by two programs."""
    by_stem = {Path(sample["file_name"]).stem: sample for sample in samples.values()}
    found = dict(samples)
    for image in content.get("images", ()):
        if image["id"] not in found and Path(image["file_name"]).stem in by_stem:
            found[image["id"]] = by_stem[Path(image["file_name"]).stem]
    return found


def _add_instances(
    samples: Mapping[int | str, Sample],
    content: Mapping[str, Any],
    source: Path,
    categories: Categories,
    issues: Issues,
) -> None:
    """Puts the entries of `annotations` into the samples, with class indices."""
    for sample in samples.values():
        sample["annotations"] = []
    for entry in content["annotations"]:
        index = categories.index(entry["category_id"], f"image {entry['image_id']}")
        owner = samples.get(entry["image_id"])
        name = f"annotation {entry.get('id', '?')}"
        if owner is None:
            issues.add(IssueKind.UNPAIRED, source, f"{name} is of image {entry['image_id']}, not in images")
        elif index is not None:
            issue = segmentation_issue(entry["segmentation"], height=owner["height"], width=owner["width"])
            if issue:
                issues.add(IssueKind.FORM, source, f"mask of {name}: {issue}")
            entry["category_id"] = index
            owner["annotations"].append(entry)
    issues.add_doubles(source, "annotation id {}", (entry["id"] for entry in content["annotations"]))
    categories.report(source, issues)
