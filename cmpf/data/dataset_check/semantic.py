# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Checks folders of pictures and label pictures."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from cmpf.data.dataset_check.files import LabelCheck, picture_size
from cmpf.data.dataset_check.findings import DoubledNames, Findings, Mistake
from cmpf.data.entry import Dataset
from cmpf.data.readers.folders import PICTURE_ENDINGS, find_pictures


def check_semantic(
    dataset: Dataset,
    findings: Findings,
    *,
    image_suffix: str = "",
    label_suffix: str = "",
    progress: bool,
) -> None:
    """Opens every picture and label picture of both folders.

    Args:
        image_suffix, label_suffix: see read_semantic.
    """
    images, labels = dataset.folder / dataset.entry.images, dataset.folder / dataset.entry.truth["labels"]
    if labels.is_file():
        message = "is a file; a semantic dataset has a folder of label pictures"
        findings.add(Mistake.JSON_KIND, labels, message)
        return
    pictures = find_pictures(images, suffix=image_suffix, faults=DoubledNames(findings, images))
    truths = find_pictures(labels, suffix=label_suffix, faults=DoubledNames(findings, labels))
    for folder, found, suffix in ((images, pictures, image_suffix), (labels, truths, label_suffix)):
        if not found and folder.is_dir():
            _report_none(folder, suffix, findings)
    check = LabelCheck(
        num_classes=dataset.vocabulary.num_classes,
        ignore_label=dataset.entry.ignore_label,
        label_map=dataset.entry.semantic_label_map,
        findings=findings,
    )
    names = sorted(pictures.keys() | truths.keys())
    for name in tqdm(names, desc=dataset.name, disable=None if progress else True):
        size = picture_size(pictures[name], findings) if name in pictures else None
        if name in truths:
            check(truths[name], size)
        if name not in truths and truths:
            findings.add(
                Mistake.UNPAIRED, pictures[name], f"has no labels {name}{label_suffix}.* in {labels}"
            )
        if name not in pictures and pictures:
            findings.add(Mistake.UNPAIRED, truths[name], f"has no picture {name}{image_suffix}.* in {images}")


def _report_none(folder: Path, suffix: str, findings: Findings) -> None:
    wanted = ", ".join(f"*{suffix}{ending}" for ending in PICTURE_ENDINGS)
    findings.add(Mistake.MISSING, folder, f"no pictures in it (looked for {wanted})")
