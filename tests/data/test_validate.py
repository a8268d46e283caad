# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers.own_dataset import change_json, change_pixels, copy_own_dataset
from PIL import Image

from cmpf.cli.datasets import dataset_name
from cmpf.data.datasets.catalog import DATASETS, get_dataset
from cmpf.data.datasets.issues import Issue, IssueKind, Issues, issues_text
from cmpf.data.datasets.validate import report_of
from cmpf.data.datasets.validate.files import LabelRules
from cmpf.errors import DatasetError, first_few


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return copy_own_dataset(tmp_path)


def messages(findings: Sequence[Issue], folder: Path) -> list[str]:
    """Kind and text of each finding, with paths relative to the folder."""
    return [f"{f.kind.name} {f}".replace(f"{folder}/", "") for f in findings]


@pytest.mark.parametrize("name", ["fruit_train", "fruit_val", "fruit_semantic", "fruit_instances"])
def test_a_whole_dataset_has_no_issues_and_can_be_read(own: Path, name: str) -> None:
    file = dataset_name(str(own / f"{name}.yaml"))
    assert report_of(file).issues == []
    assert len(get_dataset(file).samples) == (8 if name == "fruit_train" else 4)


def test_a_missing_folder_is_one_issue_and_the_rest_is_checked_all_the_same(own: Path) -> None:
    (own / "images/val").rename(own / "images/elsewhere")
    (own / "panoptic_val/bowl_03.png").unlink()
    found = messages(report_of(dataset_name(str(own / "fruit_val.yaml"))).issues, own)
    assert found == [
        "MISSING images/val: no such file or folder; correct the paths in fruit_val.yaml",
        "MISSING panoptic_val/bowl_03.png: no such panoptic PNG",
    ]


def test_many_issues_are_told_at_once_where_the_reader_names_the_first_kinds_only(own: Path) -> None:
    (own / "images/val/bowl_01.jpg").unlink()
    (own / "images/val/bowl_02.jpg").write_bytes(b"no image")
    (own / "panoptic_val/bowl_04.png").unlink()
    change_json(own / "instances_val.json", lambda content: content["annotations"][0].update(category_id=77))
    found = report_of(dataset_name(str(own / "fruit_val.yaml"))).issues
    assert [finding.kind for finding in found] == [
        IssueKind.CATEGORY,
        IssueKind.MISSING,
        IssueKind.DAMAGED,
        IssueKind.MISSING,
    ]


def test_what_only_the_reader_refuses_is_an_issue_too(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise DatasetError("images of a kind that nobody thought of")

    monkeypatch.setattr("cmpf.data.datasets.custom.read_coco_instances", refuse)
    (found,) = report_of(dataset_name(str(own / "fruit_instances.yaml"))).issues
    assert (found.kind, found.file) == (IssueKind.OTHER, own)
    assert found.message == "images of a kind that nobody thought of"


def test_a_dataset_of_the_table_that_is_not_there_says_how_to_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    found = messages(report_of("openvocab_pascal20_sem_seg_val").issues, tmp_path)
    assert found == [
        f"MISSING pascal_voc_d2/{folder}/validation: no such file or folder; cmpf datasets prepare pascal_voc"
        for folder in ("images", "annotations_pascal20")
    ]


def test_datasets_of_the_table_are_checked_by_their_own_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: Path
) -> None:
    """LVIS finds images by their address: here val2017/bowl_01.jpg below coco/."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    (tmp_path / "coco").mkdir()
    (own / "images/val").rename(tmp_path / "coco/val2017")
    (tmp_path / "lvis").mkdir()
    (own / "instances_val.json").rename(tmp_path / "lvis/lvis_v1_val.json")

    def as_in_lvis(content: dict[str, list[dict[str, object]]]) -> None:
        for image in content["images"]:
            image["coco_url"] = f"http://images.cocodataset.org/val2017/{image.pop('file_name')}"
            image["neg_category_ids"] = image["not_exhaustive_category_ids"] = []
        content["categories"] = [{"id": i, "name": f"c{i}", "frequency": "r"} for i in range(1, 1204)]

    change_json(tmp_path / "lvis/lvis_v1_val.json", as_in_lvis)
    assert report_of("openvocab_lvis_v1_val").issues == []
    (tmp_path / "coco/val2017/bowl_02.jpg").unlink()
    found = messages(report_of("openvocab_lvis_v1_val").issues, tmp_path)
    assert found == ["MISSING coco/val2017/bowl_02.jpg: no such image, but lvis_v1_val.json lists it"]


def test_unknown_names_and_wrong_files_are_errors(own: Path) -> None:
    with pytest.raises(DatasetError, match="openvocab_lvis_v1_vall: unknown dataset; did you mean"):
        report_of("openvocab_lvis_v1_vall")
    (own / "fruit_val.yaml").write_text("name: x\n")
    with pytest.raises(DatasetError, match="task: missing"):
        report_of(dataset_name(str(own / "fruit_val.yaml")))


def test_every_dataset_of_the_table_has_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for name in DATASETS:
        found = report_of(name).issues
        assert found
        assert {finding.kind for finding in found} == {IssueKind.MISSING}, name


def semantic_issues(own: Path, more: str = "") -> list[str]:
    file = own / "fruit_semantic.yaml"
    file.write_text(file.read_text() + more)
    found = report_of(dataset_name(str(file))).issues
    return [f"{issue.kind.name} {issue}".replace(f"{own}/", "") for issue in found]


def test_images_without_labels_and_labels_without_image_are_first_few(own: Path) -> None:
    (own / "images/val/bowl_01.jpg").unlink()
    (own / "labels/val/bowl_02.png").unlink()
    assert semantic_issues(own) == [
        "UNPAIRED labels/val/bowl_01.png: has no image bowl_01.* in images/val",
        "UNPAIRED images/val/bowl_02.jpg: has no labels bowl_02.* in labels/val",
    ]


def test_names_that_two_files_have_are_told(own: Path) -> None:
    Image.open(own / "images/val/bowl_01.jpg").save(own / "images/val/bowl_01.png")
    (found,) = semantic_issues(own)
    assert found in (
        f"TWICE images/val/bowl_01.{one}: the same name as bowl_01.{other}"
        for one, other in (("png", "jpg"), ("jpg", "png"))
    )


def test_folders_without_images_are_one_issue_each(own: Path) -> None:
    for image in (own / "labels/val").iterdir():
        image.unlink()
    (found,) = semantic_issues(own)
    assert found.startswith("MISSING labels/val: no images in it (of .jpg, ")


def test_files_are_paired_by_their_suffixes(own: Path) -> None:
    for image in (own / "labels/val").iterdir():
        image.rename(image.with_name(f"{image.stem}_labels.png"))
    assert semantic_issues(own, "label_suffix: _labels\n") == []


def test_sizes_that_differ_are_first_few(own: Path) -> None:
    change_pixels(own / "labels/val/bowl_04.png", lambda pixels: pixels[1:])
    assert semantic_issues(own) == [
        "SIZE labels/val/bowl_04.png: has (95, 96) (H, W), the image has (96, 96)"
    ]


def test_a_label_map_says_what_is_allowed(own: Path) -> None:
    for image in (own / "labels/val").iterdir():
        change_pixels(image, lambda pixels: pixels + np.uint8(10))
    mapped = "label_map: {10: 0, 11: 1, 12: 2, 13: 3, 14: 4}\n"  # 15, a wall, is left out
    found = semantic_issues(own, mapped)
    assert len(found) == 4
    assert all("allowed are one of 10, 11, 12, 13, 14 and the ignore label 255" in line for line in found)
    assert semantic_issues(own, "ignore_label: 15\n") == []


def label_messages(
    path: Path,
    *,
    num_classes: int = 4,
    ignore_label: int = 255,
    label_map: dict[int, int] | None = None,
    released: bool = False,
) -> list[str]:
    issues = Issues()
    rules = LabelRules(num_classes, ignore_label, label_map, released)
    rules.check(path, (2, 3), issues)
    return [f"{issue.kind.name} {issue.message}" for issue in issues.found]


def write(path: Path, values: list[list[int]], dtype: type = np.uint8) -> Path:
    Image.fromarray(np.array(values, dtype=dtype)).save(path)
    return path


def test_labels_in_range_are_right(tmp_path: Path) -> None:
    assert label_messages(write(tmp_path / "a.png", [[0, 1, 2], [3, 255, 0]])) == []
    deep = write(tmp_path / "b.png", [[0, 1, 846], [3, 65535, 0]], np.uint16)
    assert label_messages(deep, num_classes=847, ignore_label=65535) == []


def test_labels_out_of_range_are_counted(tmp_path: Path) -> None:
    wrong = write(tmp_path / "a.png", [[0, 7, 7], [3, 255, 9]])
    assert label_messages(wrong) == [
        "LABEL label 7, 9 in 3 pixels; allowed are 0..3 and the ignore label 255"
    ]


def test_labels_that_count_from_1_get_a_hint(tmp_path: Path) -> None:
    assert label_messages(write(tmp_path / "a.png", [[1, 2, 3], [4, 4, 255]])) == [
        "LABEL label 4 in 2 pixels; allowed are 0..3 and the ignore label 255; "
        "are classes counted from 1? Then label_map: {1: 0, ..., 4: 3}"
    ]


def test_another_value_for_unlabeled_pixels_gets_a_hint(tmp_path: Path) -> None:
    wrong = write(tmp_path / "a.png", [[0, 2, 3], [1, 255, 0]])
    assert label_messages(wrong, ignore_label=4) == [
        "LABEL label 255 in 1 pixels; allowed are 0..3 and the ignore label 4; "
        "is it for unlabeled pixels? Then ignore_label: 255"
    ]


def test_many_wrong_labels_are_not_all_first_few(tmp_path: Path) -> None:
    wrong = write(tmp_path / "a.png", [[10, 11, 12], [13, 14, 15]])
    (message,) = label_messages(wrong, num_classes=2)
    assert message.startswith("LABEL label 10, 11, 12, 13, 14 and 1 more in 6 pixels")


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("RGBA", 4), ("LA", 2)])
def test_colors_are_no_labels(tmp_path: Path, mode: str, channels: int) -> None:
    Image.new(mode, (3, 2)).save(tmp_path / "a.png")
    assert label_messages(tmp_path / "a.png") == [
        f"BIT_DEPTH has {channels} channels ({mode}); a label map has one channel of class numbers"
    ]


def test_floating_point_values_jpegs_and_too_few_bits_are_wrong_depths(tmp_path: Path) -> None:
    Image.new("F", (3, 2)).save(tmp_path / "a.tif")
    (message,) = label_messages(tmp_path / "a.tif")
    assert message.startswith("BIT_DEPTH has floating-point values (F)")
    Image.new("L", (3, 2)).save(tmp_path / "a.jpg")
    assert label_messages(tmp_path / "a.jpg") == ["BIT_DEPTH is a JPEG, which changes the class numbers"]
    assert label_messages(write(tmp_path / "b.png", [[0, 1, 2], [3, 4, 5]]), num_classes=847) == [
        "BIT_DEPTH has 8 bits, which end at 255; labels of this dataset go up to 846"
    ]


def test_values_beyond_16_bits_are_a_wrong_depth(tmp_path: Path) -> None:
    (message,) = label_messages(write(tmp_path / "a.tif", [[0, 1, 70000], [0, 0, 0]], np.int32))
    assert message.startswith("BIT_DEPTH values 0..70000 do not fit 16 bits")


def test_images_that_are_all_unlabeled_are_empty(tmp_path: Path) -> None:
    assert label_messages(write(tmp_path / "a.png", [[255, 255, 255], [255, 255, 255]])) == [
        "EMPTY every pixel has the ignore label 255: nothing to learn"
    ]


def test_damaged_and_missing_label_maps_are_told(tmp_path: Path) -> None:
    assert label_messages(tmp_path / "a.png") == ["MISSING no such label map"]
    whole = write(tmp_path / "b.png", np.random.default_rng(0).integers(0, 4, (200, 300)).tolist())
    whole.write_bytes(whole.read_bytes()[:2000])
    (message,) = label_messages(whole)
    assert message.startswith("DAMAGED damaged label map")


def test_what_is_missing_in_a_missing_folder_is_no_news_but_other_issues_are() -> None:
    issues = Issues()
    issues.add_missing_root(Path("data/images"), "no such folder")
    issues.add(IssueKind.MISSING, Path("data/images/a.jpg"), "no such image")
    issues.add(IssueKind.MISSING, Path("data/images"), "no such folder, again")
    issues.add(IssueKind.MISSING, Path("data/images2/a.jpg"), "no such image")
    issues.add(IssueKind.SIZE, Path("data/images/a.jpg"), "differs")
    assert [str(issue) for issue in issues.found] == [
        "data/images: no such folder",
        "data/images2/a.jpg: no such image",
        "data/images/a.jpg: differs",
    ]


def test_every_kind_has_its_own_name_and_a_fix() -> None:
    assert len({kind.title for kind in IssueKind}) == len(IssueKind)
    assert all(kind.fix for kind in IssueKind)


def test_long_lists_end_with_how_many_more_there_are() -> None:
    assert first_few([1, 2]) == "1, 2"
    assert first_few(range(5)) == "0, 1, 2, 3, 4"
    assert first_few(range(7)) == "0, 1, 2, 3, 4 and 2 more"


def test_of_many_issues_the_first_twenty_of_a_kind_are_first_few() -> None:
    issues = [Issue(IssueKind.MISSING, Path(f"{number}.jpg"), "no such image") for number in range(22)]
    issues.insert(1, Issue(IssueKind.SIZE, Path("a.png"), "has (1, 2)"))
    lines = issues_text("fruit", issues).splitlines()
    assert lines[0] == "fruit: 23 issues"
    assert lines[1].startswith("missing file (22): put the file there")
    assert lines[21] == "  19.jpg: no such image"
    assert lines[22] == "  and 2 more; --all lists them"
    assert lines[23].startswith("different sizes (1): ")
    assert len(issues_text("fruit", issues, everything=True).splitlines()) == 3 + 23


def test_one_message_tells_the_first_of_each_kind() -> None:
    issues = Issues()
    for name in ("a", "b", "c", "d"):
        issues.add(IssueKind.MISSING, Path(f"{name}.png"), "no such image")
    issues.add(IssueKind.TWICE, Path("a.json"), "image id 5 is given twice: a.png and b.png")
    with pytest.raises(DatasetError) as caught:
        issues.raise_any(Path("a.json"))
    assert str(caught.value) == (
        "a.json: missing file (4): a.png: no such image, b.png: no such image, c.png: no such image, ...; "
        "duplicate (1): image id 5 is given twice: a.png and b.png. Repair the dataset or prepare it again"
    )
    Issues().raise_any(Path("a.json"))  # nothing is raised


def test_label_maps_of_a_release_have_the_bits_that_they_need_and_may_be_empty(tmp_path: Path) -> None:
    deep = write(tmp_path / "a.png", [[0, 1, 2], [3, 255, 0]], np.uint16)
    assert label_messages(deep, released=True) == ["BIT_DEPTH has 16 bits; label maps of this dataset have 8"]
    assert label_messages(deep) == []
    assert label_messages(write(tmp_path / "b.png", [[255] * 3] * 2), released=True) == []


@pytest.mark.parametrize("name", ["fruit_val", "fruit_semantic", "fruit_instances"])
def test_several_processes_tell_the_same_in_the_same_order(own: Path, name: str) -> None:
    change_pixels(own / "labels/val/bowl_02.png", lambda pixels: pixels + np.uint8(1))
    (own / "images/val/bowl_04.jpg").unlink()
    change_json(own / "instances_val.json", lambda c: c["annotations"][3].update(segmentation=[]))
    file = dataset_name(str(own / f"{name}.yaml"))
    alone = report_of(file).issues
    assert len(alone) > 1
    assert report_of(file, jobs=2).issues == alone
