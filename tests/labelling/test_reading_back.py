# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Datasets read back by the packages that people train with; they are not installed with CMPF's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cmpf.formats.masks import encode_mask
from cmpf.labelling.journal import Entry
from cmpf.labelling.record import ImageRecord, SegmentRecord
from cmpf.labelling.writers import write_dataset

NAMES = ("cat", "dog")
HEIGHT, WIDTH = SIZE = (96, 128)
SLACK = 0.08  # an outline's pixels belong to a mask, or half of them do
y, x = np.mgrid[:HEIGHT, :WIDTH]
MASKS = ((y - 40) ** 2 + (x - 35) ** 2 < 30**2, (abs(y - 60) < 20) & (abs(x - 95) < 15))  # of cat and dog


def record(uri: str) -> ImageRecord:
    segments = [
        SegmentRecord(
            id=place + 1,
            category_id=place,
            category=NAMES[place],
            isthing=True,
            score=0.9,
            area=int(mask.sum()),
            bbox=(
                float(x[mask].min()),
                float(y[mask].min()),
                float(np.ptp(x[mask])) + 1,
                float(np.ptp(y[mask])) + 1,
            ),
            size=SIZE,
            counts=encode_mask(mask)["counts"],
            source="decoder",
            task="instance",
        )
        for place, mask in enumerate(MASKS)
    ]
    return ImageRecord(uri, "", HEIGHT, WIDTH, tuple(segments))


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """Writes two images in a format; gives the folder."""
    photos = tmp_path / "photos"
    (photos / "2024").mkdir(parents=True)
    entries = []
    for name in ("garden", "2024/other"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(photos / f"{name}.png")
        entries.append(Entry(record(str(photos / f"{name}.png")), f"{name}.png", name))

    def write(name: str) -> Path:
        write_dataset(name, lambda: entries, {"vocabulary": NAMES, "stuff": []}, tmp_path / "out")
        return tmp_path / "out"

    return write


def check(found: list[tuple[float, int]], slack: float) -> None:
    """Area and class of each instance against those that were written."""
    expected = [(int(mask.sum()), place) for place, mask in enumerate(MASKS)]
    for (area, label), (other, place) in zip(sorted(found, key=lambda pair: pair[1]), expected, strict=True):
        assert label == place
        assert area == pytest.approx(other, rel=slack, abs=0)


def test_ultralytics_reads_the_yolo_folder(
    dataset: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    pytest.importorskip("ultralytics", reason="pip install ultralytics")
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    about = check_det_dataset(str(dataset("yolo") / "yolo/data.yaml"), autodownload=False)
    assert about["names"] == {0: "cat", 1: "dog"}
    read = YOLODataset(img_path=about["train"], data=about, task="segment", imgsz=64, augment=False)
    assert sorted(Path(file).relative_to(about["train"]).as_posix() for file in read.im_files) == [
        "2024/other.png",
        "garden.png",
    ]
    for label in read.get_labels():
        assert label["shape"] == SIZE
        areas = [abs(area_of(segment * (WIDTH, HEIGHT))) for segment in label["segments"]]
        check(list(zip(areas, label["cls"][:, 0].astype(int).tolist(), strict=True)), SLACK)


def area_of(outline: np.ndarray) -> float:
    """Of a polygon (N, 2), by the shoelace formula."""
    x, y = outline.T
    return float(0.5 * np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))


def test_supervision_reads_the_yolo_folder_and_cocos_files(dataset: Any) -> None:
    sv = pytest.importorskip("supervision", reason="pip install supervision")
    out = dataset("yolo")
    # It does not enter folders, so that it has one of the two images.
    read = sv.DetectionDataset.from_yolo(
        images_directory_path=str(out / "yolo/images"),
        annotations_directory_path=str(out / "yolo/labels"),
        data_yaml_path=str(out / "yolo/data.yaml"),
        force_masks=True,
    )
    assert read.classes == ["cat", "dog"]
    assert len(read) == 1
    check_masks(read, SLACK)
    for name, slack in (("coco", 0.0), ("coco-polygons", SLACK)):
        file = dataset(name) / f"annotations/instances{'_polygons' if 'poly' in name else ''}.json"
        read = sv.DetectionDataset.from_coco(
            images_directory_path=str(out.parent / "photos"), annotations_path=str(file), force_masks=True
        )
        assert len(read) == 2
        check_masks(read, slack)


def check_masks(read: Any, slack: float) -> None:
    for _, image, detections in read:
        assert image.shape == (*SIZE, 3)
        areas = [float(mask.sum()) for mask in detections.mask]
        check(list(zip(areas, detections.class_id.tolist(), strict=True)), slack)
