# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Checks folders of images and label maps."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from cmpf.data.datasets.readers.folders import IMAGE_SUFFIXES, find_images
from cmpf.data.datasets.spec import Dataset
from cmpf.data.datasets.validate.files import LabelCheck, image_size
from cmpf.data.datasets.validate.findings import DoubledNames, Findings, Mistake


def check_semantic(
    dataset: Dataset,
    findings: Findings,
    *,
    image_suffix: str = "",
    label_suffix: str = "",
    progress: bool,
) -> None:
    """Opens every image and label map of both folders.

    Args:
        image_suffix, label_suffix: see read_semantic.
    """
    images, labels = dataset.folder / dataset.spec.images, dataset.folder / dataset.spec.truth["labels"]
    if labels.is_file():
        message = "is a file; a semantic dataset has a folder of label maps"
        findings.add(Mistake.JSON_KIND, labels, message)
        return
    image_files = find_images(images, suffix=image_suffix, issues=DoubledNames(findings, images))
    truths = find_images(labels, suffix=label_suffix, issues=DoubledNames(findings, labels))
    for folder, found, suffix in ((images, image_files, image_suffix), (labels, truths, label_suffix)):
        if not found and folder.is_dir():
            _report_none(folder, suffix, findings)
    check = LabelCheck(
        num_classes=dataset.vocabulary.num_classes,
        ignore_label=dataset.spec.ignore_label,
        label_map=dataset.spec.class_of_label,
        findings=findings,
    )
    names = sorted(image_files.keys() | truths.keys())
    for name in tqdm(names, desc=dataset.name, disable=None if progress else True):
        size = image_size(image_files[name], findings) if name in image_files else None
        if name in truths:
            check(truths[name], size)
        if name not in truths and truths:
            findings.add(
                Mistake.UNPAIRED, image_files[name], f"has no labels {name}{label_suffix}.* in {labels}"
            )
        if name not in image_files and image_files:
            findings.add(Mistake.UNPAIRED, truths[name], f"has no image {name}{image_suffix}.* in {images}")


def _report_none(folder: Path, suffix: str, findings: Findings) -> None:
    wanted = ", ".join(f"*{suffix}{ending}" for ending in IMAGE_SUFFIXES)
    findings.add(Mistake.MISSING, folder, f"no images in it (looked for {wanted})")
