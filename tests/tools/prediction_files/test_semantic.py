# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cmpf.errors import DatasetError, EvaluationError, VocabularyError
from tools.prediction_files.semantic import class_names, score_semantic

Labels = npt.NDArray[np.generic]


def write(folder: Path, name: str, labels: Labels) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)
    return path


def score(folder: Path, names: str = "abc", ignore_label: int = 255) -> dict[str, float]:
    return score_semantic(
        gt_dir=folder / "gt",
        pred_dir=folder / "pred",
        names=tuple(names),
        ignore_label=ignore_label,
        progress=False,
    )["sem_seg"]


def test_a_hand_worked_pair(tmp_path: Path) -> None:
    write(tmp_path / "gt", "x.png", np.array([[0, 0, 0, 1, 1, 255]], np.uint8))
    write(tmp_path / "pred", "x.png", np.array([[0, 0, 255, 1, 2, 2]], np.uint8))
    got = score(tmp_path)
    # a: 2 of 3, the third is "no class";  b: 1 of 2;  c is predicted once outside ignored pixels: 0 in the union mean
    assert (got["IoU-a"], got["IoU-b"]) == (pytest.approx(200 / 3), 50)
    assert got["mIoU"] == pytest.approx((200 / 3 + 50) / 2)
    assert got["mIoU_union"] == pytest.approx((200 / 3 + 50 + 0) / 3)
    assert got["fwIoU"] == pytest.approx(3 / 5 * 200 / 3 + 2 / 5 * 50)
    assert (got["mACC"], got["pACC"]) == (pytest.approx((200 / 3 + 50) / 2), pytest.approx(60))


def confusion_reference(
    pairs: list[tuple[Labels, Labels]], classes: int, ignore_label: int
) -> dict[str, float]:
    """Detectron2's definition on a dense matrix of one loop over pixels."""
    matrix = np.zeros((classes, classes))
    for truth, guess in pairs:
        for t, p in zip(truth.reshape(-1).tolist(), guess.reshape(-1).tolist(), strict=True):
            if t != ignore_label:
                matrix[p, t] += 1
    true, found, right = matrix.sum(0), matrix.sum(1), matrix.diagonal()
    there = true > 0
    iou = right[there] / (true + found - right)[there]
    return {
        "mIoU": 100 * iou.mean(),
        "mIoU_union": 100 * iou.sum() / ((true + found) > 0).sum(),
        "fwIoU": 100 * (iou * true[there] / true.sum()).sum(),
        "mACC": 100 * (right[there] / true[there]).mean(),
        "pACC": 100 * right.sum() / true.sum(),
    }


@pytest.mark.parametrize(
    ("kind", "classes", "ignore_label", "endings"),
    [
        (np.uint8, 5, 255, ("png", "png")),
        (np.uint8, 65, 65, ("tif", "png")),
        (np.uint16, 847, 65535, ("png", "tif")),
    ],
)
def test_random_images_agree_with_a_loop_over_pixels(
    tmp_path: Path, kind: type[np.integer], classes: int, ignore_label: int, endings: tuple[str, str]
) -> None:
    generator = np.random.default_rng(classes)
    pairs = []
    for number in range(4):
        truth = generator.integers(0, classes // 2 + 1, (12, 9))
        guess = np.where(
            generator.random(truth.shape) < 0.5, truth, generator.integers(0, classes, truth.shape)
        )
        truth[generator.random(truth.shape) < 0.1] = ignore_label
        write(tmp_path / "gt", f"{number}.{endings[0]}", truth.astype(kind))
        write(tmp_path / "pred", f"{number}.{endings[1]}", guess.astype(kind))
        pairs.append((truth, guess))
    got = score_semantic(
        gt_dir=tmp_path / "gt",
        pred_dir=tmp_path / "pred",
        names=[str(i) for i in range(classes)],
        ignore_label=ignore_label,
        progress=False,
    )["sem_seg"]
    expected = confusion_reference(pairs, classes, ignore_label)
    assert {name: got[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_folders_in_folders_are_paired_and_other_files_left_alone(tmp_path: Path) -> None:
    labels = np.zeros((2, 2), np.uint8)
    for side in ("gt", "pred"):
        write(tmp_path / side, "aachen/1.2.png", labels)
        write(tmp_path / side, "bonn/1.2.png", labels)
        (tmp_path / side / f"{side}.txt").write_text("notes")
    assert score(tmp_path)["mIoU"] == 100


def refused(folder: Path, message: str) -> None:
    with pytest.raises((DatasetError, EvaluationError), match=message):
        score(folder)


def test_images_must_be_on_both_sides(tmp_path: Path) -> None:
    labels = np.zeros((2, 2), np.uint8)
    for number in range(5):
        write(tmp_path / "gt", f"{number}.png", labels)
    refused(tmp_path, r"pred: no such folder")
    write(tmp_path / "pred", "0.png", labels)
    refused(tmp_path, r"pred: no prediction for .*gt/1\.png, .*gt/2\.png, .*gt/3\.png, \.\.\. \(4 in all\)")
    for number in range(1, 6):
        write(tmp_path / "pred", f"{number}.png", labels)
    refused(tmp_path, r"gt: no ground truth for .*pred/5\.png")
    write(tmp_path / "pred", "5.tif", labels)
    refused(tmp_path, r"5\.(png|tif) and .*5\.(png|tif): two label maps of one image")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match=r"empty: no label map \(\.png"):
        score_semantic(gt_dir=tmp_path / "empty", pred_dir=tmp_path / "gt", names="ab", ignore_label=255)


def test_strange_images_are_named(tmp_path: Path) -> None:
    write(tmp_path / "gt", "x.png", np.array([[0, 1]], np.uint8))
    write(tmp_path / "pred", "x.png", np.array([[0, 3]], np.uint8))
    refused(tmp_path, r"pred/x\.png: predicted label 3; allowed are 0\.\.2 and 255")
    write(tmp_path / "pred", "x.png", np.zeros((1, 2, 3), np.uint8))
    refused(tmp_path, r"pred/x\.png: a label map has one channel, this one has 3")
    write(tmp_path / "pred", "x.png", np.zeros((2, 1), np.uint8))
    refused(tmp_path, r"pred/x\.png: the prediction is \(2, 1\)")
    (tmp_path / "pred" / "x.png").write_bytes(b"")
    refused(tmp_path, r"pred/x\.png: damaged label map")
    write(tmp_path / "gt", "x.png", np.array([[0, 9]], np.uint8))
    refused(tmp_path, r"gt/x\.png: label 9 in 1 pixels; allowed are 0\.\.2 and the ignore label 255")


def test_names_come_from_lines_or_a_vocabulary_file(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("# comment\nroad\n\nlight: red\n")
    assert class_names(path, 2) == ("road", "light: red")
    path.write_text("0:invalid_class_id\n1:road,street\n2:car\n")
    assert class_names(path, 2) == ("road", "car")
    assert class_names(None, 3) == ("0", "1", "2")
    with pytest.raises(EvaluationError, match=r"names\.txt: 2 names for --num-classes 3"):
        class_names(path, 3)
    with pytest.raises(VocabularyError, match=r"none\.txt: cannot be read"):
        class_names(tmp_path / "none.txt", 3)


def test_repeated_names_keep_their_numbers_apart(tmp_path: Path) -> None:
    write(tmp_path / "gt", "x.png", np.array([[0, 1]], np.uint8))
    write(tmp_path / "pred", "x.png", np.array([[0, 0]], np.uint8))
    got = score(tmp_path, names="aa")
    assert (got["IoU-a (0)"], got["IoU-a (1)"]) == (50, 0)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    labels = np.zeros((32, 32), np.uint8)
    peaks = []
    for first, last in ((0, 50), (50, 500)):
        for number in range(first, last):
            for side in ("gt", "pred"):
                write(tmp_path / side, f"{number:04}.png", labels)
        tracemalloc.start()
        score(tmp_path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 450 < 2048  # a pair takes 16 KB as whole numbers; its two paths 1 KB
