# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Scores of predictions in files are those of the official tools, and what is wrong with files is told."""

from __future__ import annotations

import copy
import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers.evaluation_data import COCO_METRICS, random_panoptic, score_with_pycocotools, shaken, write_ids
from helpers.lvis_reference import naive_lvis, random_lvis
from helpers.panoptic import Panoptic, naive_quality
from PIL import Image

from cmpf.errors import DatasetError, EvaluationError, VocabularyError
from cmpf.evaluation.prediction_files.instances import score_instances
from cmpf.evaluation.prediction_files.json_files import (
    first_values,
    index_by,
    read_categories,
    sort_ids,
    unique_names,
)
from cmpf.evaluation.prediction_files.maps import class_names, score_panoptic, score_semantic

PATH = Path("gt.json")


def test_categories_are_in_the_order_of_their_ids() -> None:
    content = {"categories": [{"id": 9, "name": "b"}, {"id": 2, "name": "a"}, {"id": 4}]}
    categories = read_categories(content, PATH)
    assert categories.names == ("a", "4", "b")
    assert categories.index(9, path=PATH, what="x") == 2
    with pytest.raises(
        EvaluationError, match=r"p\.json: segment 1 has category_id 7, which gt\.json does not list"
    ):
        categories.index(7, path=Path("p.json"), what="segment 1")
    for value in ([9], True, None):
        with pytest.raises(EvaluationError, match=r"segment 1 has category_id .*; expected a whole number"):
            categories.index(value, path=Path("p.json"), what="segment 1")
    with pytest.raises(EvaluationError, match=r"gt\.json: no category in it"):
        read_categories({"categories": []}, PATH)


def test_doubled_values_are_listed_up_to_three() -> None:
    with pytest.raises(EvaluationError, match=r"image listed twice: id 1, 2, 3, \.\.\. \(4 in all\)"):
        index_by([{"id": i % 5} for i in range(1, 10)], "id", path=PATH, what="image")
    assert first_values([7, 7, 8]) == "7, 8"


def test_repeated_names_get_their_place() -> None:
    assert unique_names(["a", "b", "a"]) == ("a (0)", "b", "a (2)")


def test_ids_of_both_kinds_have_an_order() -> None:
    assert sort_ids(["b", 10, "a", 9]) == [9, 10, "a", "b"]


# Ids as datasets have them: not in order, with gaps.
CATEGORIES = [
    {"id": 90, "name": "sky", "isthing": 0},
    {"id": 3, "name": "cat", "isthing": 1},
    {"id": 17, "name": "dog", "isthing": 1},
    {"id": 55, "name": "never there", "isthing": 0},
]
IDS = (90, 3, 17)  # of the classes 0, 1, 2 of the reference


class Files:
    """Ground truth and prediction of some images on disk; tests spoil them and score."""

    def __init__(self, folder: Path, pairs: list[tuple[Panoptic, Panoptic]]) -> None:
        self.folder = folder
        self.truth: dict[str, Any] = {"annotations": [], "categories": CATEGORIES}
        self.found: dict[str, Any] = {"annotations": []}
        for number, (truth, guess) in enumerate(pairs):
            self.add(self.truth, "gt", truth, number, f"{number}.png")
            self.add(self.found, "pred", guess, number, f"found_{number}.png")

    def add(self, document: dict[str, Any], side: str, panoptic: Panoptic, number: int, name: str) -> None:
        (self.folder / side).mkdir(exist_ok=True)
        ids, segments = panoptic
        write_ids(self.folder / side / name, ids)
        infos = [
            {**s, "category_id": IDS[s["category_id"]], "area": int((ids == s["id"]).sum())} for s in segments
        ]
        document["annotations"].append({"image_id": number, "file_name": name, "segments_info": infos})

    def score(self) -> dict[str, float]:
        for name, document in (("gt.json", self.truth), ("pred.json", self.found)):
            (self.folder / name).write_text(json.dumps(document))
        return score_panoptic(
            gt_json=self.folder / "gt.json",
            gt_dir=self.folder / "gt",
            pred_json=self.folder / "pred.json",
            pred_dir=self.folder / "pred",
            progress=False,
        )["panoptic"]


def random_pairs(count: int) -> list[tuple[Panoptic, Panoptic]]:
    generator = np.random.default_rng(8)
    pairs = []
    for _ in range(count):
        truth = random_panoptic(generator, size=(24, 20), classes=3, crowds=True)
        pairs.append((truth, shaken(generator, *truth, classes=3)))
    return pairs


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path, random_pairs(3))


def test_files_agree_with_the_definition_read_aloud(tmp_path: Path) -> None:
    pairs = random_pairs(30)
    written = Files(tmp_path, pairs)
    written.found["annotations"].reverse()  # the order of the images does not matter
    got = written.score()
    for suffix, classes in {"": [0, 1, 2], "_th": [1, 2], "_st": [0]}.items():
        for metric, value in naive_quality(pairs, classes).items():
            assert got[metric + suffix] == pytest.approx(value, abs=1e-9), metric + suffix
    for place, name in enumerate(("sky", "cat", "dog")):
        assert got[f"PQ-{name}"] == pytest.approx(naive_quality(pairs, [place])["PQ"])
    assert math.isnan(got["PQ-never there"])
    assert 20 < got["PQ"] < 80


def panoptic_refused(files: Files, message: str) -> None:
    with pytest.raises((DatasetError, EvaluationError), match=message):
        files.score()


def test_images_must_be_the_same_on_both_sides(files: Files) -> None:
    last = files.found["annotations"].pop()
    panoptic_refused(files, r"pred\.json: no prediction for image_id 2, which .*gt\.json lists")
    files.found["annotations"] += [last, {**last, "image_id": 77}]
    panoptic_refused(files, r"pred\.json: image_id 77 is not in .*gt\.json")
    files.found["annotations"][-1]["image_id"] = 1
    panoptic_refused(files, r"pred\.json: annotation listed twice: image_id 1")


def test_ids_must_be_in_image_and_list(files: Files) -> None:
    infos = files.found["annotations"][1]["segments_info"]
    infos.append({"id": 9999, "category_id": 3})
    panoptic_refused(
        files, r"found_1\.png and .*pred\.json: prediction lists segments \[9999\], which have no pixel"
    )
    del infos[-1]
    lost = infos.pop()
    panoptic_refused(files, rf"found_1\.png .*prediction image holds ids \[{lost['id']}\]")
    infos += [lost, lost]
    panoptic_refused(files, rf"found_1\.png .*prediction lists segment ids \[{lost['id']}\] twice")
    infos.pop()
    stray = files.truth["annotations"][2]["segments_info"].pop()
    panoptic_refused(files, rf"gt/2\.png and .*gt\.json: ground truth image holds ids \[{stray['id']}\]")


def test_unknown_categories_are_named(files: Files) -> None:
    files.found["annotations"][0]["segments_info"][0]["category_id"] = 4
    panoptic_refused(
        files, r"pred\.json: segment 1 of image 0 has category_id 4, which .*gt\.json does not list"
    )
    files.found["annotations"][0]["segments_info"][0]["category_id"] = 3
    files.truth["annotations"][0]["segments_info"][0]["category_id"] = 4
    panoptic_refused(files, r"gt\.json: segment \d+ of image 0 has category_id 4")


def test_images_must_be_there_whole_and_of_one_size(files: Files) -> None:
    path = files.folder / "pred" / "found_1.png"
    path.rename(files.folder / "kept.png")
    panoptic_refused(files, r"found_1\.png: no such prediction PNG; .*pred\.json names it")
    path.write_bytes(b"no image")
    panoptic_refused(files, r"found_1\.png: damaged panoptic PNG")
    Image.open(files.folder / "kept.png").resize((10, 24)).save(path)
    panoptic_refused(files, r"found_1\.png: the prediction is \(24, 10\)")
    (files.folder / "gt" / "0.png").unlink()
    panoptic_refused(files, r"gt/0\.png: no such ground truth PNG; .*gt\.json names it")


def test_json_of_another_form_is_refused(files: Files) -> None:
    del files.found["annotations"][0]["file_name"]
    panoptic_refused(files, r"pred\.json: annotation without 'file_name'")
    files.found = {"annotation": []}
    panoptic_refused(files, r"pred\.json: no COCO file, it has no list 'annotations' of objects")
    files.truth["categories"] = [{"id": 3, "name": "cat"}]
    panoptic_refused(files, r"gt\.json: category without 'isthing'")


Labels = npt.NDArray[np.generic]


def write(folder: Path, name: str, labels: Labels) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)
    return path


def semantic_score(folder: Path, names: str = "abc", ignore_label: int = 255) -> dict[str, float]:
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
    got = semantic_score(tmp_path)
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
    assert semantic_score(tmp_path)["mIoU"] == 100


def semantic_refused(folder: Path, message: str) -> None:
    with pytest.raises((DatasetError, EvaluationError), match=message):
        semantic_score(folder)


def test_images_must_be_on_both_sides(tmp_path: Path) -> None:
    labels = np.zeros((2, 2), np.uint8)
    for number in range(5):
        write(tmp_path / "gt", f"{number}.png", labels)
    semantic_refused(tmp_path, r"pred: no such folder")
    write(tmp_path / "pred", "0.png", labels)
    semantic_refused(
        tmp_path, r"pred: no prediction for .*gt/1\.png, .*gt/2\.png, .*gt/3\.png, \.\.\. \(4 in all\)"
    )
    for number in range(1, 6):
        write(tmp_path / "pred", f"{number}.png", labels)
    semantic_refused(tmp_path, r"gt: no ground truth for .*pred/5\.png")
    write(tmp_path / "pred", "5.tif", labels)
    semantic_refused(tmp_path, r"5\.(png|tif): the same name as 5\.(png|tif): two label maps of one image")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match=r"empty: no label map \(\.png"):
        score_semantic(gt_dir=tmp_path / "empty", pred_dir=tmp_path / "gt", names="ab", ignore_label=255)


def test_hidden_folders_are_left_out_as_in_training(tmp_path: Path) -> None:
    for name in ("gt", "pred", "gt/.ipynb_checkpoints"):
        write(tmp_path / name, "0.png", np.zeros((2, 2), np.uint8))
    assert semantic_score(tmp_path)["pACC"] == 100


def test_strange_images_are_named(tmp_path: Path) -> None:
    write(tmp_path / "gt", "x.png", np.array([[0, 1]], np.uint8))
    write(tmp_path / "pred", "x.png", np.array([[0, 3]], np.uint8))
    semantic_refused(tmp_path, r"pred/x\.png: predicted label 3; allowed are 0\.\.2 and 255")
    write(tmp_path / "pred", "x.png", np.zeros((1, 2, 3), np.uint8))
    semantic_refused(tmp_path, r"pred/x\.png: a label map has one channel, this one has 3")
    write(tmp_path / "pred", "x.png", np.zeros((2, 1), np.uint8))
    semantic_refused(tmp_path, r"pred/x\.png: the prediction is \(2, 1\)")
    (tmp_path / "pred" / "x.png").write_bytes(b"")
    semantic_refused(tmp_path, r"pred/x\.png: damaged label map")
    write(tmp_path / "gt", "x.png", np.array([[0, 9]], np.uint8))
    semantic_refused(tmp_path, r"gt/x\.png: label 9 in 1 pixels; allowed are 0\.\.2 and the ignore label 255")


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
    got = semantic_score(tmp_path, names="aa")
    assert (got["IoU-a (0)"], got["IoU-a (1)"]) == (50, 0)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    labels = np.zeros((32, 32), np.uint8)
    peaks = []
    for first, last in ((0, 50), (50, 500)):
        for number in range(first, last):
            for side in ("gt", "pred"):
                write(tmp_path / side, f"{number:04}.png", labels)
        tracemalloc.start()
        semantic_score(tmp_path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 450 < 2048  # a pair takes 16 KB as whole numbers; its two paths 1 KB


def instances_score(
    folder: Path, truth: Any, results: Any, *, lvis: bool = False, iou_type: str = "segm"
) -> dict[str, float]:
    (folder / "gt.json").write_text(json.dumps(truth))
    (folder / "pred.json").write_text(json.dumps(results))
    scored = score_instances(
        gt_json=folder / "gt.json", pred_json=folder / "pred.json", iou_type=iou_type, lvis=lvis
    )
    assert list(scored) == [iou_type]
    return scored[iou_type]


def without(entries: list[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in entry.items() if key not in keys} for entry in entries]


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
@pytest.mark.parametrize("geometry", ["segmentation", "bbox", "both"])
def test_coco_numbers_are_those_of_pycocotools(tmp_path: Path, iou_type: str, geometry: str) -> None:
    truth, results = random_lvis(0)
    for place, annotation in enumerate(truth["annotations"]):
        annotation["iscrowd"] = int(place % 7 == 0)
    dropped = {"segmentation": ("bbox", "area"), "bbox": ("segmentation", "area"), "both": ("area",)}[
        geometry
    ]
    if (iou_type, geometry) == ("segm", "bbox"):
        with pytest.raises(EvaluationError, match=r"pred\.json: result 0 without 'segmentation'"):
            instances_score(tmp_path, truth, without(results, *dropped))
        return
    if geometry == "both":  # boxes of another size than the masks: areas are theirs, as in the official tool
        results = [{**r, "bbox": [*r["bbox"][:2], r["bbox"][2] * 1.2, r["bbox"][3]]} for r in results]
    got = instances_score(tmp_path, truth, without(results, *dropped), iou_type=iou_type)
    expected = score_with_pycocotools(tmp_path, iou_type)
    assert {name: got[name] for name in COCO_METRICS} == pytest.approx(expected, abs=1e-9)
    assert 5 < got["AP"] < 95
    assert set(got) == {*COCO_METRICS, *(f"AP-class {i}" for i in range(6))}


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_lvis_numbers_are_those_of_the_rules_read_aloud(tmp_path: Path, iou_type: str) -> None:
    truth, results = random_lvis(3)
    dropped = "bbox" if iou_type == "segm" else "segmentation"
    got = instances_score(tmp_path, truth, without(results, dropped, "area"), lvis=True, iou_type=iou_type)
    expected = naive_lvis(truth, results, iou_type)
    assert {name: got[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_lvis_takes_300_detections_of_an_image(tmp_path: Path) -> None:
    truth, results = random_lvis(4, images=2, detections=200)
    assert len(results) > 600
    got = instances_score(tmp_path, truth, without(results, "bbox", "area"), lvis=True)
    expected = naive_lvis(truth, results, "segm")
    assert {name: got[name] for name in expected} == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_no_result_at_all_scores_zero(tmp_path: Path) -> None:
    truth = random_lvis(0)[0]
    with pytest.raises(EvaluationError, match=r"gt\.json: annotation 1 without 'iscrowd'"):
        instances_score(tmp_path, truth, [])
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = 0
    assert instances_score(tmp_path, truth, [])["AP"] == 0


def spoilt(place: str, **changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Files with one entry changed; None removes a key."""
    truth, results = copy.deepcopy(random_lvis(0))
    entry = results[2] if place == "results" else truth[place][1]
    for key, value in changes.items():
        entry.pop(key) if value is None else entry.update({key: value})
    return truth, results


SMALL = {"size": [9, 9], "counts": [81]}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            spoilt("results", image_id=99),
            r"pred\.json: result 2 has image_id 99, which .*gt\.json does not list",
        ),
        (
            spoilt("results", category_id=4),
            r"pred\.json: result 2 has category_id 4, which .*gt\.json does not",
        ),
        (spoilt("results", score=None), r"pred\.json: result 2 without 'score'"),
        (spoilt("results", score=float("nan")), r"pred\.json: result 2 has score nan"),
        (
            spoilt("results", segmentation=SMALL),
            r"pred\.json: mask of result 2: run lengths of size \[9, 9\]",
        ),
        (
            spoilt("results", segmentation=[[1, 2]]),
            r"pred\.json: mask of result 2: a polygon needs three points",
        ),
        (spoilt("results", bbox=[1, 2]), r"pred\.json: result 2 has bbox \[1, 2\]"),
        (
            spoilt("annotations", image_id=99),
            r"gt\.json: annotation 2 has image_id 99, which it does not list",
        ),
        (spoilt("annotations", category_id=4), r"gt\.json: annotation 2 has category_id 4"),
        (spoilt("annotations", id="2"), r"gt\.json: annotation has id '2'; expected a number"),
        (spoilt("annotations", id=0), r"gt\.json: annotation 0: .*; number annotations from 1"),
        (spoilt("annotations", area=None), r"gt\.json: annotation 2 without 'area'"),
        (spoilt("annotations", id=1), r"gt\.json: annotation listed twice: id 1"),
        (
            spoilt("annotations", segmentation=SMALL),
            r"gt\.json: mask of annotation 2: run lengths of size \[9, 9\]",
        ),
        (spoilt("images", id=1), r"gt\.json: image listed twice: id 1"),
        (spoilt("images", height=None), r"gt\.json: image 2 without 'height'"),
        (spoilt("images", neg_category_ids=None), r"gt\.json: image 2 without 'neg_category_ids'"),
        (spoilt("images", not_exhaustive_category_ids=[5]), r"gt\.json: image 2 has category_id 5"),
        (spoilt("categories", id=3), r"gt\.json: category listed twice: id 3"),
        (spoilt("categories", frequency="x"), r"gt\.json: category with frequency 'x'; LVIS has r, c and f"),
    ],
)
def test_issues_are_named_with_file_and_entry(tmp_path: Path, files: tuple[Any, Any], message: str) -> None:
    with pytest.raises((DatasetError, EvaluationError), match=message):
        instances_score(tmp_path, *files, lvis=True)


def test_results_must_be_a_list_of_objects(tmp_path: Path) -> None:
    for results in ({"annotations": []}, [1]):
        with pytest.raises(EvaluationError, match=r"pred\.json: no COCO results; expected a list of objects"):
            instances_score(tmp_path, random_lvis(0)[0], results, lvis=True)
