# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Checks datasets whose ground truth is a JSON file in COCO's form: panoptic, instances, LVIS."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cmpf.data.datasets.issues import Issue, IssueKind, Issues
from cmpf.data.datasets.readers import FileNames
from cmpf.data.datasets.readers.folders import Categories, find_images
from cmpf.data.datasets.spec import Dataset
from cmpf.data.datasets.validate.files import Files, LabelRules, Run
from cmpf.data.datasets.validate.segments import EXACT_STUFF, HIDDEN_STUFF
from cmpf.errors import DatasetError
from cmpf.formats import coco_json
from cmpf.formats.coco_json import check_numbers, image_name, kind_issue, lvis_image_name, read_json
from cmpf.formats.masks import decode_mask, segmentation_issue

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class ListedImage:
    """An entry of `images`: its id, the path of the image, its (H, W), and the entry itself."""

    identity: int | str
    path: Path
    size: tuple[int, int]
    entry: Entry


def check_panoptic(run: Run, *, names: FileNames) -> int:
    """Every image, panoptic PNG and label map that a panoptic JSON file names; returns how many images it lists.

    Args:
        names: see read_coco_panoptic.
    """
    dataset, issues = run.dataset, run.issues
    truth = {key: dataset.folder / path for key, path in dataset.spec.truth.items()}
    source = truth["annotations"]
    content = read_truth(source, "panoptic", issues)
    if content is None:
        return 0
    names.complete(content, dataset.folder / dataset.spec.images)
    images = listed_images(content, dataset.folder / dataset.spec.images, names.image, source, issues)
    annotations = _paired(content, images, source, issues)
    categories = _categories(content, dataset, source, issues)
    items = []
    for identity, image in images.items():
        entry = annotations.get(identity)
        if entry is not None and categories is not None:
            for segment in entry["segments_info"]:
                categories.index(segment["category_id"], entry["file_name"])
        items.append(
            Files(
                image=image.path,
                source=source,
                size=image.size,
                png=truth["panoptic"] / entry["file_name"] if entry else None,
                segments=entry["segments_info"] if entry else (),
                labels=truth["semantic"] / names.semantic(image.entry) if "semantic" in truth else None,
            )
        )
    for found in run.examine(items, LabelRules.of(run)):
        issues.merge(found)
    if dataset.spec.hidden_stuff and HIDDEN_STUFF not in issues.notes:
        issues.notes[EXACT_STUFF] = None
    if run.released:
        _report_unlisted(dataset.folder / dataset.spec.images, (item.image for item in items), source, issues)
        _report_unlisted(truth["panoptic"], (item.png for item in items), source, issues)
        if "semantic" in truth and names == FileNames():  # else the folder holds other files, too
            _report_unlisted(truth["semantic"], (item.labels for item in items), source, issues)
    if categories:
        categories.report(source, issues)
    if "instances" in truth:
        _check_beside(run, truth["instances"], images)
    return len(images)


def check_instances(run: Run, *, lvis: bool, annotated: bool = True) -> int:
    """Every image and mask that an instances JSON file names; returns how many images it lists.

    Args:
        lvis: the file is in the form of LVIS, which has more fields, and names images in its own way.
        annotated: False = it lists images of a test split alone.
    """
    dataset, issues = run.dataset, run.issues
    source = dataset.folder / dataset.spec.truth["annotations"]
    content = read_truth(source, "instances" if annotated else "test images", issues)
    if content is None:
        return 0
    folder = dataset.folder / dataset.spec.images
    images = listed_images(content, folder, lvis_image_name if lvis else image_name, source, issues)
    if lvis and annotated:
        _check_lvis(content, dataset.vocabulary.num_classes, source, issues)
    items = [Files(image=image.path, source=source, size=image.size) for image in images.values()]
    for found in run.examine(items, LabelRules.of(run)):
        issues.merge(found)
    if run.released and not lvis:
        _report_unlisted(folder, (item.image for item in items), source, issues)
    if annotated:
        _check_objects(run, content, source, images)
    return len(images)


def read_truth(path: Path, wanted: str, issues: Issues) -> dict[str, Any] | None:
    """The content of a JSON file of ground truth; None and an issue if it is another kind of file, see kind_issue."""
    if path.is_dir():
        issues.add(IssueKind.JSON_KIND, path, f"is a folder; expected a COCO {wanted} JSON file")
        return None
    if not path.is_file():
        issues.add(IssueKind.MISSING, path, "no such annotation file")
        return None
    try:
        content = read_json(path)
    except DatasetError as error:
        issues.add(IssueKind.DAMAGED, path, str(error).removeprefix(f"{path}: "))
        return None
    wrong = kind_issue(content, wanted)
    if wrong:
        issues.add(IssueKind.JSON_KIND, path, wrong)
        return None
    return dict(content)


def listed_images(
    content: Entry, folder: Path, name: Callable[[Entry], str], source: Path, issues: Issues
) -> dict[int | str, ListedImage]:
    """The entries of `images` that are whole, by their id; issues for the others and for those given twice.

    Args:
        folder: of the images.
        name: entry -> path below the folder.
        source: the JSON file.
    """
    images: dict[int | str, ListedImage] = {}
    names: dict[Path, int | str] = {}
    for number, entry in enumerate(content["images"]):
        try:
            check_numbers(entry)
            size = int(entry["height"]), int(entry["width"])
            image = ListedImage(entry["id"], folder / name(entry), size, entry)
            known = image.identity in images
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            issues.add(IssueKind.FORM, source, f"entry {number} of images: {entry_issue(error)}")
            continue
        if known:
            earlier = images[image.identity].path.name
            message = f"image id {image.identity} is given twice: {earlier} and {image.path.name}"
            issues.add(IssueKind.TWICE, source, message)
        elif image.path in names:
            both = f"{names[image.path]} and {image.identity}"
            issues.add(IssueKind.TWICE, image.path, f"{source.name} lists it twice, as images {both}")
        else:
            images[image.identity] = image
            names[image.path] = image.identity
    return images


def _paired(
    content: Entry, images: Mapping[int | str, ListedImage], source: Path, issues: Issues
) -> dict[int | str, Entry]:
    """Image id -> its panoptic annotation."""
    found: dict[int | str, Entry] = {}
    used: dict[str, int | str] = {}
    for number, entry in enumerate(content["annotations"]):
        try:
            identity, name = entry["image_id"], str(entry["file_name"])
            known = identity in images
            for segment in entry["segments_info"]:
                hash((segment["id"], segment["category_id"]))
                check_numbers(segment)
        except (KeyError, TypeError) as error:
            issues.add(IssueKind.FORM, source, f"entry {number} of annotations: {entry_issue(error)}")
            continue
        if not known:
            issues.add(IssueKind.UNPAIRED, source, f"annotation {name} is of image {identity}, not in images")
        elif identity in found:
            both = f"{found[identity]['file_name']} and {name}"
            issues.add(IssueKind.TWICE, source, f"image {identity} has two annotations: {both}")
        elif name in used:
            issues.add(IssueKind.TWICE, source, f"images {used[name]} and {identity} share the PNG {name}")
        else:
            found[identity], used[name] = entry, identity
    for identity in images.keys() - found.keys():
        issues.add(IssueKind.UNPAIRED, images[identity].path, f"has no annotation in {source.name}")
    return found


def _categories(
    content: Entry, dataset: Dataset, source: Path, issues: Issues, *, things_only: bool = False
) -> Categories | None:
    """Classes of category ids; None and an issue if `categories` is not in COCO's form."""
    try:
        return Categories(content, dataset.vocabulary, dataset.spec.class_of_id, things_only=things_only)
    except (KeyError, TypeError) as error:
        issues.add(IssueKind.FORM, source, f"an entry of categories: {entry_issue(error)}")
        return None


def _check_lvis(content: Entry, num_classes: int, source: Path, issues: Issues) -> None:
    """What AP of a federated dataset needs: all categories, their frequencies, and two lists of each image."""
    categories = [entry for entry in content["categories"] if isinstance(entry, Mapping)]
    if len(categories) != num_classes:
        issues.add(IssueKind.FORM, source, f"{len(categories):,} categories; expected {num_classes:,}")
    for entry in categories:
        if entry.get("frequency") not in coco_json.LVIS_FREQUENCIES:
            message = f"category {entry.get('id')} has no frequency r, c or f"
            issues.add(IssueKind.FORM, source, message)
    for entry in content["images"]:
        for key in coco_json.LVIS_LISTS:
            if isinstance(entry, Mapping) and not isinstance(entry.get(key), list):
                issues.add(IssueKind.FORM, source, f"image {entry.get('id')} has no list {key}")


def _report_unlisted(folder: Path, listed: Iterable[Path | None], source: Path, issues: Issues) -> None:
    """Images, PNGs or label maps of a folder that the JSON file does not know."""
    known = set(listed)
    for path in find_images(folder, suffix="", issues=Issues()).values():
        if path not in known:
            issues.add(IssueKind.UNPAIRED, path, f"{source.name} does not list it")


def _check_beside(run: Run, source: Path, images: Mapping[int | str, ListedImage]) -> None:
    """Instance annotations of images that were looked at before: of the same ids, or else the same stems."""
    content = read_truth(source, "instances", run.issues)
    if content is None:
        return
    by_stem = {image.path.stem: image for image in images.values()}
    own = listed_images(content, Path(), image_name, source, run.issues)
    same = {i: by_stem[image.path.stem] for i, image in own.items() if image.path.stem in by_stem}
    _check_objects(run, content, source, same | dict(images))


def _check_objects(run: Run, content: Entry, source: Path, images: Mapping[int | str, ListedImage]) -> None:
    """Entries of `annotations`: their ids, images and categories, then, image by image, their masks."""
    issues = run.issues
    categories = _categories(content, run.dataset, source, issues, things_only=run.released)
    seen: set[Any] = set()
    of_image: dict[int | str, list[tuple[Any, Any]]] = defaultdict(list)
    for number, entry in enumerate(content["annotations"]):
        try:
            identity, image_id, mask = entry["id"], entry["image_id"], entry["segmentation"]
            check_numbers(entry)
            image, category, twice = images.get(image_id), entry["category_id"], identity in seen
            seen.add(identity)
            if image is not None and categories:
                categories.index(category, image.path.name)
        except (KeyError, TypeError) as error:
            issues.add(IssueKind.FORM, source, f"entry {number} of annotations: {entry_issue(error)}")
            continue
        if twice:
            issues.add(IssueKind.TWICE, source, f"annotation id {identity} is given twice")
        if image is None:
            message = f"annotation {identity} is of image {image_id}, not in images"
            issues.add(IssueKind.UNPAIRED, source, message)
        else:
            of_image[image_id].append((identity, mask))
    items = [(images[image_id], masks) for image_id, masks in of_image.items()]
    for found in run.each(partial(_examine_masks, source=source, released=run.released), items):
        issues.add_all(found)
    if categories:
        categories.report(source, issues)


def _examine_masks(
    item: tuple[ListedImage, list[tuple[Any, Any]]], *, source: Path, released: bool
) -> list[Issue]:
    """What is wrong with the masks of one image, (id, segmentation) each."""
    image, masks = item
    height, width = image.size
    issues = []
    for identity, segmentation in masks:
        where = f"mask of annotation {identity} in {image.path.name}"
        wrong = segmentation_issue(segmentation, height=height, width=width)
        if wrong:
            kind = IssueKind.SIZE if "in an image of" in wrong else IssueKind.FORM
            issues.append(Issue(kind, source, f"{where}: {wrong}"))
            continue
        try:
            empty = not decode_mask(segmentation, height=height, width=width, where=where).any()
        except DatasetError as error:
            issues.append(Issue(IssueKind.FORM, source, str(error)))
            continue
        # Releases have polygons so thin that they cover no pixel's middle.
        if empty and not (released and isinstance(segmentation, list)):
            issues.append(Issue(IssueKind.EMPTY, source, f"{where} has no pixel"))
    return issues


def entry_issue(error: Exception) -> str:
    """What is wrong with an entry that raised an error when it was read."""
    return f"has no {error}" if isinstance(error, KeyError) else str(error)
