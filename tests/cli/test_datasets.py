# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf datasets: lists, describes, checks, draws and prepares."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.own_dataset import SOURCE, change_json, copy_own_dataset
from helpers.raw_datasets.ade20k import make_ade20k
from PIL import Image

from cmpf.cli import main
from cmpf.cli.dataset_report import _size, align_columns, from_files, from_training, random_samples
from cmpf.cli.datasets import dataset_name
from cmpf.data.datasets.catalog import get_dataset
from cmpf.data.datasets.spec import Dataset
from cmpf.data.mapper import DatasetMapper, PanopticTargets
from cmpf.errors import DatasetError
from cmpf.visualization.ground_truth import TrueRegion


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fruit bowls in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    return copy_own_dataset(tmp_path)


def test_without_a_name_all_datasets_are_listed(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("images_detectron2/validation", "annotations_detectron2/validation"):
        (own.parent / "datasets/ADE20K_2021_17_01" / name).mkdir(parents=True)
    (own.parent / "datasets/pascal_voc_d2/images/training").mkdir(parents=True)
    assert main(["datasets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"root: {own.parent / 'datasets'} (DETECTRON2_DATASETS)"
    rows = {line.split()[0]: line.split()[1:] for line in lines[3:]}
    assert rows["openvocab_ade20k_full_sem_seg_val"] == ["semantic", "847", "yes"]
    assert rows["openvocab_pascal20_sem_seg_train"] == ["semantic", "20", "1", "of", "2", "paths"]
    assert rows["openvocab_lvis_v1_val"] == ["instance", "1203", "no"]


def test_a_dataset_that_is_not_there_is_described_all_the_same(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["datasets", "openvocab_pascal20_sem_seg_val"]) == 0
    out = capsys.readouterr().out
    assert "  images        missing or incomplete\n" in out
    assert "  test size     shorter side 800, longer side at most 1333\n" in out
    assert "    images/validation                MISSING\n" in out
    assert out.endswith("fix: cmpf datasets prepare pascal_voc\n")


@pytest.mark.parametrize(
    ("options", "count", "by"), [([], 64, "published"), (["--seen", "words"], 74, "words")]
)
def test_seen_classes_are_those_of_the_papers_unless_words_are_asked_for(
    own: Path, capsys: pytest.CaptureFixture[str], options: list[str], count: int, by: str
) -> None:
    assert main(["datasets", "openvocab_ade20k_panoptic_val", "--json", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (len(found["seen"]), len(found["unseen"]), found["seen_by"]) == (count, 150 - count, by)
    assert main(["datasets", "openvocab_ade20k_panoptic_val", *options]) == 0
    label = {"published": "as in the papers", "words": "by equal words"}[by]
    assert f"({label})\n" in capsys.readouterr().out


def test_an_own_dataset_is_described_with_its_classes_against_another_dataset(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["datasets", "own_dataset/fruit_val.yaml", "--classes"]
    assert main([*arguments, "--against", "own_dataset/fruit_train.yaml"]) == 0
    assert "6 seen, 0 unseen, against own_dataset/fruit_train.yaml" in capsys.readouterr().out
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "  evaluation    PQ, AP, mIoU\n" in out
    # COCO knows apples, tables (dining table, table) and walls; no pears, lemons and plums.
    assert "  unseen (3)\n    pear, lemon, plum\n" in out
    assert "  things (4)\n    apple, pear, lemon, plum\n  stuff (2)\n    table, wall\n" in out


def test_checking_a_whole_dataset_is_exit_code_0(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "check", "own_dataset/fruit_val.yaml"]) == 0
    assert capsys.readouterr().out == "fruit_val: opened every file, no issues\n"


def test_issues_are_printed_by_kind_with_a_fix_and_are_exit_code_1(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "images/val/bowl_01.jpg").unlink()
    change_json(
        own / "panoptic_val.json", lambda content: content["images"].append({**content["images"][1], "id": 9})
    )
    assert main(["datasets", "check", "own_dataset/fruit_val.yaml"]) == 1
    out = capsys.readouterr().out
    assert out.splitlines() == [
        "fruit_val: 2 issues",
        "duplicate (1): keep one of them",
        f"  {own}/images/val/bowl_02.jpg: panoptic_val.json lists it twice, as images 2 and 9",
        "missing file (1): put the file there, or correct its path or name",
        f"  {own}/images/val/bowl_01.jpg: no such image, but panoptic_val.json lists it",
    ]


@pytest.mark.parametrize("name", ["fruit_val", "fruit_semantic", "fruit_instances"])
def test_ground_truth_of_each_kind_is_drawn_for_so_many_images(
    own: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["datasets", "show", f"own_dataset/{name}.yaml", "--n", "2", "--output", "out"]) == 0
    assert capsys.readouterr().out == f"{name}: 2 of 4 images in out, with an overview in overview.png\n"
    made = sorted(path.name for path in Path("out").iterdir())
    assert len(made) == 3
    assert made[-1] == "overview.png"
    drawn = np.asarray(Image.open(Path("out", made[0])).resize((96, 96))).astype(int)
    original = np.asarray(Image.open(own / "images/val" / f"{made[0][4:11]}.jpg")).astype(int)
    changed = np.abs(drawn - original).max(axis=-1) > 40
    # Instances leave wall and table as they are.
    assert changed[60:].any()
    assert changed[:10].all() == (name != "fruit_instances")


def test_the_seed_chooses_the_images(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = set()
    for seed in range(4):
        folder = f"out{seed}"
        command = ["datasets", "show", "own_dataset/fruit_semantic.yaml", "--n", "1", "--seed", str(seed)]
        assert main([*command, "--output", folder]) == 0
        chosen |= {path.name for path in Path(folder).iterdir()}
    assert len(chosen) > 2


def test_what_training_sees_is_drawn_at_its_size(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["datasets", "show", "own_dataset/fruit_train.yaml", "--augmented", "--n", "1"]
    assert main([*command, "--config-file", "shapes/cmpf_tiny"]) == 0
    folder = Path("output/datasets/fruit_train")
    (name,) = (path.name for path in folder.iterdir() if path.name != "overview.png")
    assert name.endswith("_augmented.png")
    # INPUT.IMAGE_SIZE 256, a square, enlarged to 640 for the labels.
    assert Image.open(folder / name).size == (640, 640)


@pytest.mark.parametrize(
    "words",
    [
        ["show"],
        ["check"],
        ["a", "b"],
        ["check", "a", "b"],
        ["show", "a", "--n", "0"],
        ["prepare", "bdd100k_panoptic", "--split", "train"],
        ["vocabularies", "openvocab_ade20k_panoptic_val"],
        ["openvocab_ade20k_panoptic_val", "--fetch"],
        ["openvocab_ade20k_panoptic_val", "--check"],  # meant: cmpf datasets check NAME
        ["check", "openvocab_ade20k_panoptic_val", "--augmented"],
        ["prepare", "ade20k_semantic", "--full-size"],
        ["prepare", "ade20k_full", "--exact-areas"],
    ],
)
def test_wrong_words_are_usage_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["datasets", *words])
    assert stop.value.code == 2
    assert "usage: cmpf datasets [check | show | prepare | vocabularies]" in capsys.readouterr().err


@pytest.mark.parametrize("action", [[], ["check"], ["show"]])
def test_unknown_names_and_missing_files_are_one_line_of_error(
    own: Path, action: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["datasets", *action, "openvocab_lvis_v1_vall"]) == 1
    assert main(["datasets", *action, "nowhere.yaml"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(
        "cmpf: openvocab_lvis_v1_vall: unknown dataset; did you mean openvocab_lvis_v1_val?"
    )
    assert second.startswith(f"cmpf: {own.parent / 'nowhere.yaml'}: no such dataset file")


def test_json_lists_describes_and_checks(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"name": "shapes_val", "kind": "panoptic", "classes": "54", "on_disk": "no"} in rows
    assert main(["datasets", "own_dataset/fruit_val.yaml", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["name"], summary["images"], summary["unseen"]) == (
        "fruit_val",
        4,
        ["pear", "lemon", "plum"],
    )
    missing = next((own / "images/val").iterdir())
    missing.unlink()
    assert main(["datasets", "check", "own_dataset/fruit_val.yaml", "--json"]) == 1
    issues = json.loads(capsys.readouterr().out)
    assert {issue["kind"] for issue in issues} == {"MISSING"}
    assert any(missing.name in issue["file"] for issue in issues)


@pytest.mark.parametrize("given", ["mine/fruit.yaml", "mine/fruit.YML", "file:mine/fruit.yaml", "file:odd"])
def test_files_get_their_prefix_and_an_absolute_path(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dataset_name(given) == f"file:{tmp_path}/{given.removeprefix('file:')}"


def test_other_words_are_names_of_the_table() -> None:
    assert dataset_name("shapes_val") == "shapes_val"


def test_prepare_without_a_name_lists_what_can_be_prepared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "prepare"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  ade20k_panoptic     ADE20K panoptic: train 20,210, val 2,000" in lines
    assert len(lines) == 1 + 14


def test_an_unknown_preparation_is_an_error_that_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "prepare", "ade20k_panoptics"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("cmpf: ade20k_panoptics: unknown; did you mean ade20k_panoptic?")
    assert "mapillary_vistas, lvis" in error


def test_a_dataset_is_prepared_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_ade20k(tmp_path)
    command = ["datasets", "prepare", "ade20k_semantic", "--root", str(tmp_path), "--split", "val"]
    assert main(command) == 0
    assert capsys.readouterr().out == "labels of val: 3 created, 0 already existed, 0 failed\n"
    assert main([*command, "--check", "--images", "3"]) == 0
    assert main([*command, "--check"]) == 1
    captured = capsys.readouterr()
    name = "openvocab_ade20k_panoptic_val, labels, 3 images"
    assert captured.out.startswith(f"{name}: opened every file, no issues\n{name}: 1 issue\n")
    assert captured.err == "ADE20K semantic: 1 issue\n"
    assert main([*command, "--check", "--json"]) == 1
    (issue,) = json.loads(capsys.readouterr().out)
    assert (issue["kind"], issue["message"]) == ("COUNT", "3 images found, 2,000 expected")


def test_columns_are_as_wide_as_their_longest_text() -> None:
    assert (
        align_columns([("a", "bcd", "e"), ("long", "b", "free text")]) == "a     bcd  e\nlong  b    free text"
    )


def test_sizes_are_counted_in_decimal_units(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "a.png").write_bytes(bytes(999))
    assert _size(tmp_path / "a.png") == "999 bytes"
    (tmp_path / "below/b.png").write_bytes(bytes(1501))
    assert _size(tmp_path) == "2 files, 2.5 KB"  # 999 + 1501 = 2500
    (tmp_path / "c.json").write_bytes(bytes(250_000))
    assert _size(tmp_path / "c.json") == "250 KB"


NAMES = ("apple", "pear", "lemon", "plum", "table", "wall")


def fruit(name: str, folder: Path = SOURCE) -> Dataset:
    return get_dataset(dataset_name(str(folder / f"{name}.yaml")))


def class_map(regions: list[TrueRegion] | tuple[TrueRegion, ...]) -> np.ndarray:
    """Class index of each pixel, 255 where no region is."""
    classes = np.full((96, 96), 255, dtype=np.uint8)
    for region in regions:
        classes[region.mask] = region.category
    return classes


@pytest.mark.parametrize("name", ["fruit_val", "fruit_semantic", "fruit_instances"])
def test_all_kinds_of_ground_truth_of_an_image_agree_with_its_label_map(name: str) -> None:
    dataset = fruit(name)
    for sample in dataset.samples:
        image, regions = from_files(dataset, sample)
        stem = Path(sample["file_name"]).stem
        expected = np.array(Image.open(SOURCE / f"labels/val/{stem}.png"))
        if name == "fruit_instances":
            expected[expected >= 4] = 255  # table and wall are no things
        assert np.array_equal(class_map(list(regions)), expected)
        assert image.shape == (96, 96, 3)


def test_crowds_are_regions_too(tmp_path: Path) -> None:
    own = copy_own_dataset(tmp_path)
    change_json(
        own / "panoptic_val.json",
        lambda content: content["annotations"][0]["segments_info"][2].update(iscrowd=1),
    )
    change_json(own / "instances_val.json", lambda content: content["annotations"][0].update(iscrowd=1))
    for name in ("fruit_val", "fruit_instances"):
        dataset = fruit(name, own)
        _, regions = from_files(dataset, dataset.samples[0])
        assert sum(region.crowd for region in regions) == 1


def test_a_mask_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    own = copy_own_dataset(tmp_path)
    change_json(
        own / "instances_val.json",
        lambda content: content["annotations"][0]["segmentation"].update(counts=7),
    )
    dataset = fruit("fruit_instances", own)
    with pytest.raises(
        DatasetError,
        match=r"instances_val\.json: .* mask of annotation 1 in bowl_01.jpg: packed run lengths",
    ):
        from_files(dataset, dataset.samples[0])


def test_samples_are_chosen_at_random_in_order_and_each_once() -> None:
    dataset = fruit("fruit_train")
    chosen = random_samples(dataset, 5, np.random.default_rng(0))
    names = [sample["file_name"] for sample in chosen]
    assert names == sorted(set(names))
    assert len(names) == 5
    assert random_samples(dataset, 99, np.random.default_rng(0)) == list(dataset.samples)


def test_what_training_sees_comes_from_its_mapper() -> None:
    dataset = fruit("fruit_val")
    mapper = DatasetMapper(augmentations=[], target=PanopticTargets(), image_pad=0)
    image, regions = from_training(mapper, dataset.samples[0], np.random.default_rng(0))
    plain, same = from_files(dataset, dataset.samples[0])
    assert np.array_equal(image, plain)
    assert np.array_equal(class_map(list(regions)), class_map(list(same)))
