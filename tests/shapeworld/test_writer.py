# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The benchmark on disk, and the program that writes it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from cmpf.errors import DatasetError
from cmpf.shapeworld import CATEGORIES, Scene, generate_scene, writer
from cmpf.shapeworld import __main__ as command
from cmpf.shapeworld.records import Record, coco_categories, write_record
from cmpf.shapeworld.writer import MARKER, WorldSpec, scene_seed, write_dataset

SPEC = WorldSpec(train=6, val=4, hard_val=3, seed=5, size=64)
SMALL = WorldSpec(train=1, val=1, size=64)


def _contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _write(out: Path, spec: WorldSpec, **options) -> bool:
    return write_dataset(out, spec, progress=False, **options)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("shapes") / "world"
    assert _write(out, SPEC)
    return out


def test_the_layout_is_that_of_coco_panoptic(world):
    names = {path.name for path in world.iterdir()}
    assert names == {"train", "val", "hard_val", "vocabulary_all.txt", "vocabulary_seen.txt", MARKER}
    for split, count in SPEC.counts.items():
        assert {path.name for path in (world / split).iterdir()} == {
            "images",
            "panoptic",
            "semantic",
            "panoptic.json",
            "instances.json",
        }
        for part in ("images", "panoptic", "semantic"):
            assert len(list((world / split / part).iterdir())) == count


def test_the_marker_holds_the_arguments(world):
    assert json.loads((world / MARKER).read_text()) == asdict(SPEC)


def test_json_and_png_agree_in_every_split(world):
    for split in SPEC.counts:
        panoptic = json.loads((world / split / "panoptic.json").read_text())
        known = {category["id"] for category in panoptic["categories"]}
        for image, annotation in zip(panoptic["images"], panoptic["annotations"], strict=True):
            assert image["id"] == annotation["image_id"]
            colors = np.asarray(Image.open(world / split / "panoptic" / annotation["file_name"])).astype(int)
            ids = colors @ [1, 256, 65536]
            assert ids.shape == (image["height"], image["width"]) == (64, 64)
            values, areas = np.unique(ids, return_counts=True)
            listed = [(info["id"], info["area"]) for info in annotation["segments_info"]]
            assert listed == list(zip(values.tolist(), areas.tolist(), strict=True))
            assert all(info["category_id"] in known for info in annotation["segments_info"])
            assert (world / split / "images" / image["file_name"]).is_file()


def test_pycocotools_reads_the_instances(world, capsys):
    coco = COCO(str(world / "val" / "instances.json"))
    assert sorted(coco.getImgIds()) == [1, 2, 3, 4]
    assert len(coco.getCatIds()) == sum(category.isthing for category in CATEGORIES)
    assert len(coco.anns) == len(coco.dataset["annotations"]) > 0
    for annotation in coco.anns.values():
        assert coco.annToMask(annotation).sum() == annotation["area"]


def test_training_images_hold_seen_categories_only_and_validation_holds_both(world):
    seen = {category.id + 1 for category in CATEGORIES if category.seen}
    used = {}
    for split in SPEC.counts:
        panoptic = json.loads((world / split / "panoptic.json").read_text())
        infos = [info for annotation in panoptic["annotations"] for info in annotation["segments_info"]]
        used[split] = {info["category_id"] for info in infos}
        assert len(panoptic["categories"]) == (21 if split == "train" else 54)
    assert used["train"] <= seen
    assert used["val"] & seen
    assert used["val"] - seen


def test_the_images_are_those_of_the_generator(world):
    scene = generate_scene(scene_seed(5, split="hard_val", number=2), size=64, seen_only=False, hard=True)
    colors = np.asarray(Image.open(world / "hard_val/panoptic/000002.png")).astype(int)
    np.testing.assert_array_equal(colors @ [1, 256, 65536], scene.ids)


def test_splits_and_numbers_never_share_a_seed():
    seeds = [
        scene_seed(0, split=split, number=n) for split in ("train", "val", "hard_val") for n in range(200)
    ]
    assert len(set(seeds)) == 600


def test_two_processes_write_the_same_bytes_as_one(world, tmp_path):
    assert _write(tmp_path / "again", SPEC, jobs=2)
    assert _contents(tmp_path / "again") == _contents(world)


def test_an_empty_split_has_no_folder(tmp_path):
    assert _write(tmp_path, WorldSpec(train=0, val=1, size=64))
    assert {path.name for path in tmp_path.iterdir()} == {
        "val",
        "vocabulary_all.txt",
        "vocabulary_seen.txt",
        MARKER,
    }


def test_equal_arguments_reuse_what_is_there(tmp_path):
    assert _write(tmp_path, SMALL)
    image = tmp_path / "train/images/000001.jpg"
    image.write_bytes(b"mine")
    assert not _write(tmp_path, SMALL)
    assert image.read_bytes() == b"mine"


def test_other_arguments_are_refused_with_the_difference_and_the_fix(tmp_path):
    _write(tmp_path, SMALL)
    before = _contents(tmp_path)
    with pytest.raises(DatasetError, match=r"train 1, not 2; seed 0, not 9\): add --force .* another folder"):
        _write(tmp_path, WorldSpec(train=2, val=1, seed=9, size=64))
    assert _contents(tmp_path) == before


def test_force_replaces_another_world_and_nothing_else(tmp_path):
    _write(tmp_path, WorldSpec(train=2, val=1, hard_val=1, size=64))
    (tmp_path / "notes.txt").write_text("mine")
    assert _write(tmp_path, SMALL, force=True)
    assert json.loads((tmp_path / MARKER).read_text()) == asdict(SMALL)
    assert not (tmp_path / "hard_val").exists()
    assert len(list((tmp_path / "train/images").iterdir())) == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_files_of_somebody_else_are_refused_even_with_force(tmp_path):
    (tmp_path / "train").mkdir()
    for force in (False, True):
        with pytest.raises(
            DatasetError, match="already holds train, not written by ShapeWorld: choose another"
        ):
            _write(tmp_path, SMALL, force=force)
    assert list(tmp_path.iterdir()) == [tmp_path / "train"]


class _KilledError(BaseException):
    """Stands for a signal that no handler sees."""


def test_a_run_killed_while_drawing_is_done_again(tmp_path, monkeypatch):
    # What SIGKILL leaves: an unfinished working folder and no marker.
    (tmp_path / ".partial/train/images").mkdir(parents=True)
    (tmp_path / ".partial/train/images/000001.jpg").write_bytes(b"half a pict")
    assert _write(tmp_path, SMALL)
    assert not (tmp_path / ".partial").exists()
    Image.open(tmp_path / "train/images/000001.jpg").load()


def test_a_run_killed_while_moving_is_not_taken_for_whole(tmp_path, monkeypatch):
    def killed(path, text):
        raise _KilledError

    monkeypatch.setattr(writer, "write_text", killed)
    with pytest.raises(_KilledError):
        _write(tmp_path, SMALL)
    monkeypatch.undo()
    assert (tmp_path / "train").is_dir()
    assert not (tmp_path / MARKER).exists()
    assert _write(tmp_path, SMALL)
    assert not _write(tmp_path, SMALL)


def test_an_interrupted_run_leaves_nothing_behind_and_the_old_world_whole(tmp_path, monkeypatch):
    _write(tmp_path, SMALL)
    before = _contents(tmp_path)

    def interrupted(task):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "_write_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _write(tmp_path, SPEC, force=True)
    assert _contents(tmp_path) == before
    assert not (tmp_path / ".partial").exists()


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("val/panoptic.json", "panoptic.json missing: add --force"),
        ("train/images/000001.jpg", "1 files of .*images missing: add --force"),
        ("vocabulary_seen.txt", "vocabulary_seen.txt missing: add --force"),
    ],
)
def test_a_damaged_world_is_not_reused_and_force_mends_it(tmp_path, lost, words):
    _write(tmp_path, SMALL)
    (tmp_path / lost).unlink()
    with pytest.raises(DatasetError, match=words):
        _write(tmp_path, SMALL)
    assert _write(tmp_path, SMALL, force=True)
    assert (tmp_path / lost).is_file()


@pytest.mark.parametrize("content", ["", "[1]", '{"train": '])
def test_an_unreadable_marker_is_named(tmp_path, content):
    (tmp_path / MARKER).write_text(content)
    with pytest.raises(DatasetError, match=r"complete\.json cannot be read: add --force"):
        _write(tmp_path, SMALL)
    assert _write(tmp_path, SMALL, force=True)


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    target = tmp_path / "file"
    target.write_text("")
    with pytest.raises(DatasetError, match=r"cannot write ShapeWorld to .*file"):
        _write(target, SMALL)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"train": -1, "val": 1}, "train = -1: must be 0 or more"),
        ({"train": 1, "val": 1, "hard_val": -2}, "hard_val = -2"),
        ({"train": 1, "val": 1, "seed": -3}, "seed = -3"),
        ({"train": 0, "val": 0}, "at least one image"),
        ({"train": 1, "val": 1, "size": 32}, "size = 32: must be between 64 and 1024"),
    ],
)
def test_bad_specs_are_named(arguments, words):
    with pytest.raises(DatasetError, match=words):
        WorldSpec(**arguments)


def test_no_process_is_too_few(tmp_path):
    with pytest.raises(DatasetError, match="jobs = 0"):
        _write(tmp_path, SMALL, jobs=0)


def test_the_vocabulary_of_seen_classes_is_the_beginning_of_the_whole_one(world):
    def classes(name):
        lines = (world / name).read_text().splitlines()
        return [line for line in lines if not line.startswith("#")]

    whole, seen = classes("vocabulary_all.txt"), classes("vocabulary_seen.txt")
    assert (len(whole), len(seen)) == (54, 21)
    assert whole[:21] == seen


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Scene, Record]:
    for part in ("images", "panoptic", "semantic"):
        (tmp_path / part).mkdir()
    scene = generate_scene(11, seen_only=False)
    return tmp_path, scene, write_record(scene, tmp_path, image_id=42)


def test_category_ids_are_the_index_plus_one():
    entries = coco_categories(CATEGORIES)
    assert [entry["id"] for entry in entries] == list(range(1, 55))
    assert entries[0] == {"id": 1, "name": "red circle", "isthing": 1}


def test_files_are_named_by_the_image_id(written):
    folder, _, record = written
    assert record.image["file_name"] == "000042.jpg"
    assert record.panoptic["file_name"] == "000042.png"
    assert record.panoptic["image_id"] == record.image["id"] == 42
    for name in ("images/000042.jpg", "panoptic/000042.png", "semantic/000042.png"):
        assert (folder / name).is_file()


def test_the_panoptic_png_holds_the_ids_and_areas_of_the_json(written):
    folder, scene, record = written
    colors = np.asarray(Image.open(folder / "panoptic/000042.png")).astype(np.int32)
    ids = colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2]
    np.testing.assert_array_equal(ids, scene.ids)
    values, areas = np.unique(ids, return_counts=True)
    listed = {info["id"]: info["area"] for info in record.panoptic["segments_info"]}
    assert listed == dict(zip(values.tolist(), areas.tolist(), strict=True))


def test_boxes_are_tight(written):
    _, scene, record = written
    for info in record.panoptic["segments_info"]:
        rows, columns = np.where(scene.ids == info["id"])
        expected = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert info["bbox"] == expected


def test_the_semantic_png_holds_the_contiguous_class_of_each_segment(written):
    folder, scene, record = written
    labels = np.asarray(Image.open(folder / "semantic/000042.png"))
    assert labels.dtype == np.uint8
    for info in record.panoptic["segments_info"]:
        assert set(labels[scene.ids == info["id"]].tolist()) == {info["category_id"] - 1}


def test_instances_are_the_things_and_their_run_lengths_decode_to_the_masks(written):
    _, scene, record = written
    things = [s for s in scene.segments if CATEGORIES[s.category_id].isthing]
    assert len(record.instances) == len(things) > 0
    for annotation, segment in zip(record.instances, things, strict=True):
        mask = coco_mask.decode(annotation["segmentation"])
        np.testing.assert_array_equal(mask, scene.ids == segment.id)
        assert annotation["area"] == mask.sum()
        assert annotation["category_id"] == segment.category_id + 1
        assert annotation["image_id"] == 42


def test_the_jpeg_is_close_to_the_scene(written):
    folder, scene, _ = written
    image = np.asarray(Image.open(folder / "images/000042.jpg")).astype(int)
    assert np.abs(image - scene.image.astype(int)).mean() < 6


ARGUMENTS = ["--train", "1", "--val", "1", "--size", "64", "--jobs", "1"]


def _usage_error(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        command.main(list(arguments))
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_it_writes_and_then_finds_what_is_there(tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "world"), *ARGUMENTS]
    assert command.main(arguments) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'world'}: 2 images written\n"
    assert command.main(arguments) == 0
    assert "already exist, nothing to do" in capsys.readouterr().out


def test_another_world_in_the_folder_is_an_error_of_one_line(tmp_path, capsys):
    command.main(["--out", str(tmp_path), *ARGUMENTS])
    capsys.readouterr()
    assert command.main(["--out", str(tmp_path), *ARGUMENTS, "--seed", "4"]) == 1
    message = capsys.readouterr().err
    assert "seed 0, not 4" in message
    assert message.count("\n") == 1
    assert command.main(["--out", str(tmp_path), *ARGUMENTS, "--seed", "4", "--force"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--train", "1", "--val", "1"], "--out"),
        (["--out", "x", "--train", "many", "--val", "1"], "many"),
        (["--out", "x", "--train", "-4", "--val", "1"], "train = -4: must be 0 or more"),
        (["--out", "x", "--train", "0", "--val", "0"], "at least one image"),
        (["--out", "x", "--train", "1", "--val", "1", "--size", "8"], "between 64 and 1024"),
        (["--out", "x", "--train", "1", "--val", "1", "--jobs", "0"], "--jobs 0: must be 1 or more"),
        (["--out", "x", "--train", "1", "--val", "1", "--color", "red"], "--color"),
    ],
)
def test_wrong_usage_is_named_and_exits_with_2(capsys, arguments, words):
    assert words in _usage_error(capsys, *arguments)


def test_an_interruption_is_told_in_one_line(tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "write_dataset", interrupted)
    assert command.main(["--out", str(tmp_path), *ARGUMENTS]) == 1
    assert "stopped; run the same command to start again" in capsys.readouterr().err


def test_the_module_runs_as_a_program():
    root = Path(__file__).parents[3]
    run = subprocess.run(
        [sys.executable, "-m", "cmpf.shapeworld", "--help"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0
    assert "--hard-val" in run.stdout
