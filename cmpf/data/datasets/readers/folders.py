# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What lies in the folders of a dataset."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from cmpf.data.datasets.issues import IssueKind, Issues
from cmpf.types import Sample

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_KINDS = {
    "file_name": "image",
    "pan_seg_file_name": "panoptic PNG",
    "sem_seg_file_name": "label map",
}


def check_files(samples: Iterable[Sample], issues: Issues) -> None:
    """Every file must be there, and belong to one sample only.

    Looks names up in listings of their folders: single look-ups take minutes on a network drive.
    """
    listings: dict[str, set[str]] = {}
    paths: dict[str, list[str]] = {key: [] for key in _KINDS}
    for sample in samples:
        for key, kind in _KINDS.items():
            path = sample.get(key)
            if path is None:
                continue
            paths[key].append(str(path))
            folder, name = os.path.split(str(path))
            if folder not in listings:
                listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
            if name not in listings[folder]:
                issues.add(IssueKind.MISSING, Path(str(path)), f"no such {kind}")
    for key, kind in _KINDS.items():
        for path, count in Counter(paths[key]).items():
            if count > 1:
                issues.add(IssueKind.TWICE, Path(path), f"{kind} of {count} samples")


def find_images(folder: Path, *, suffix: str, issues: Issues) -> dict[str, Path]:
    """Images below a folder by the name that pairs them.

    Args:
        suffix: what their names must end with before the ending, such as "_leftImg8bit"; other files do not
            count. "" = all images.
    Returns:
        Path below `folder` without suffix and ending, such as "bonn/bonn_000000_000019" -> file; sorted.
        Two files of one name, such as a.jpg and a.png, are an issue.
    """
    found: dict[str, Path] = {}
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            stem, ending = os.path.splitext(name)
            if name.startswith(".") or ending.lower() not in IMAGE_SUFFIXES or not stem.endswith(suffix):
                continue
            path = Path(parent, name)
            key = path.relative_to(folder).with_name(stem[: len(stem) - len(suffix)]).as_posix()
            if key in found:
                issues.add(IssueKind.TWICE, path, f"the same name as {found[key].name}")
            found[key] = path
    return dict(sorted(found.items()))
