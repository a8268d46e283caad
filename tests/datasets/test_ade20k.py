# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""ADE20K."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.preparing import Case, rewrite, truncate
from helpers.raw_datasets.ade20k import make_ade20k, make_ade20k_full
from helpers.scripts import script
from PIL import Image
from pycocotools import mask as rle

from cmpf.cli import main
from cmpf.data.datasets.catalog import get_vocabulary
from cmpf.data.datasets.constants import ADE20K_THINGS
from cmpf.data.preparation import get_preparation
from cmpf.data.preparation.ade20k import CLASSES, read_instances
from cmpf.data.preparation.ade20k_full import OBJECTS, downscaled_size, objects, resize_bilinear
from cmpf.errors import DatasetError

evaluate_predictions = script("evaluate_predictions")

# Places in the published list of the instance benchmark's 100 classes (1-based), and its names there.
PUBLISHED = {
    1: "bed",
    2: "windowpane",
    4: "person",
    9: "car",
    14: "armchair",
    24: "column",
    36: "bookcase",
    44: "palm",
    50: "bus",
    59: "airplane",
    64: "bottle",
    75: "oven",
    83: "bicycle",
    85: "screen",
    90: "traffic light",
    96: "bulletin board",
    99: "clock",
    100: "flag",
}
OTHER_WORDS = {"windowpane": "window", "airplane": "plane"}


def test_the_100_things_are_in_the_order_of_the_instance_benchmark() -> None:
    assert len(ADE20K_THINGS) == 100
    assert CLASSES == 150
    names = get_vocabulary("openvocab_ade20k_panoptic_val").names
    found = {place: names[ADE20K_THINGS[place - 1]] for place in PUBLISHED}
    expected = {place: OTHER_WORDS.get(word, word) for place, word in PUBLISHED.items()}
    assert {place: (name, expected[place]) for place, name in found.items() if name != expected[place]} == {}


def test_instances_are_classes_of_the_150_and_numbers(tmp_path: Path) -> None:
    values = np.zeros((2, 2, 3), dtype=np.uint8)
    values[0, 1] = (1, 7, 0)
    values[1, 0] = (100, 255, 0)
    values[1, 1] = (3, 0, 0)  # no number: no instance
    Image.fromarray(values).save(tmp_path / "a.png")
    category, number = read_instances(tmp_path / "a.png")
    assert number.tolist() == [[0, 7], [255, 0]]
    assert category[number > 0].tolist() == [7, 149]


def test_things_are_those_of_the_vocabulary() -> None:
    flags = get_vocabulary("openvocab_ade20k_panoptic_val").is_thing
    assert tuple(index for index, flag in enumerate(flags) if flag) == ADE20K_THINGS


@pytest.mark.parametrize("wrong", [0, 101])
def test_instances_of_no_class_are_refused(tmp_path: Path, wrong: int) -> None:
    Image.new("RGB", (2, 2), (wrong, 1, 0)).save(tmp_path / "a.png")
    with pytest.raises(
        DatasetError, match=rf"a\.png: instances of class \[{wrong}\]; the benchmark has 1\.\.100"
    ):
        read_instances(tmp_path / "a.png")


SEMANTIC = Case(name="ade20k_semantic", make=(make_ade20k,))
FOLDER = "ADEChallengeData2016"
SEMANTIC_NAME = "validation/ADE_val_00000001.png"


def test_labels_count_from_0_and_other_is_255(tmp_path: Path) -> None:
    SEMANTIC.write(tmp_path)
    assert SEMANTIC.run(tmp_path) == 0
    raw = np.array(Image.open(tmp_path / FOLDER / "annotations" / SEMANTIC_NAME))
    labels = np.array(Image.open(tmp_path / FOLDER / "annotations_detectron2" / SEMANTIC_NAME))
    # A grid of 3 x 3 blocks, rows start at 0, 22 and 43: 1, 8, 8 | 9, 0, 3 | 150, 3, 1.
    assert raw[[0, 22, 43]][:, [0, 32, 64]].tolist() == [[1, 8, 8], [9, 0, 3], [150, 3, 1]]
    assert labels[[0, 22, 43]][:, [0, 32, 64]].tolist() == [[0, 7, 7], [8, 255, 2], [149, 2, 0]]
    assert np.array_equal(labels, np.where(raw == 0, 255, raw.astype(int) - 1))


def test_labels_above_150_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SEMANTIC.write(tmp_path)
    path = tmp_path / FOLDER / "annotations" / SEMANTIC_NAME
    rewrite(path, lambda values: values + np.uint8(1))
    assert SEMANTIC.run(tmp_path) == 1
    assert f"{path}: values up to 151; expected up to 150" in capsys.readouterr().err


PANOPTIC = Case(name="ade20k_panoptic", make=(make_ade20k,))
PANOPTIC_NAME = "ADE_val_00000001.png"
ROWS, COLUMNS = [0, 22, 43], [0, 32, 64]  # where the blocks begin


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_ade20k(tmp_path)
    return tmp_path


def test_instances_lie_over_stuff_and_the_rest_is_void(root: Path) -> None:
    assert PANOPTIC.run(root) == 0
    png = np.array(Image.open(root / FOLDER / "ade20k_panoptic_val" / PANOPTIC_NAME)).astype(int)
    ids = png[..., 0] + 256 * png[..., 1] + 65536 * png[..., 2]
    # Wall (class 0, stuff) 256 * 1; beds (7) 3 and 4: 256 * 8 + 3 and + 4; window (8) 7: 256 * 9 + 7; sky (2): 256 * 3.
    # Unlabeled pixels and the flag that no instance covers are void.
    assert ids[ROWS][:, COLUMNS].tolist() == [[256, 2051, 2052], [2311, 0, 768], [0, 768, 256]]


def test_the_json_file_tells_class_area_and_box_of_each_segment(root: Path) -> None:
    assert PANOPTIC.run(root) == 0
    content = json.loads((root / FOLDER / "ade20k_panoptic_val.json").read_text())
    assert content["images"][0] == {
        "id": "ADE_val_00000001",
        "file_name": "ADE_val_00000001.jpg",
        "height": 64,
        "width": 96,
    }
    entry = content["annotations"][0]
    assert (entry["image_id"], entry["file_name"]) == ("ADE_val_00000001", PANOPTIC_NAME)
    found = {s["id"]: (s["category_id"], s["area"], s["bbox"], s["iscrowd"]) for s in entry["segments_info"]}
    assert found == {
        256: (0, 22 * 32 + 21 * 32, [0, 0, 96, 64], 0),  # first block of row 0, last of row 2
        768: (2, 21 * 32 * 2, [32, 22, 64, 42], 0),
        2051: (7, 22 * 32, [32, 0, 32, 22], 0),
        2052: (7, 22 * 32, [64, 0, 32, 22], 0),
        2311: (8, 21 * 32, [0, 22, 32, 21], 0),
    }


def test_categories_are_the_150_classes_with_100_things(root: Path) -> None:
    assert PANOPTIC.run(root) == 0
    categories = json.loads((root / FOLDER / "ade20k_panoptic_val.json").read_text())["categories"]
    assert [c["id"] for c in categories] == list(range(150))
    assert sum(c["isthing"] for c in categories) == 100
    assert categories[7] == {"id": 7, "name": "bed", "isthing": 1}
    assert categories[2] == {"id": 2, "name": "sky", "isthing": 0}


def test_labels_and_instances_that_disagree_are_a_warning(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (root / FOLDER / "annotations_instance").rglob("*.png"):
        rewrite(path, lambda values: np.where(values[..., :1] > 0, values + np.uint8([5, 0, 0]), values))
    assert PANOPTIC.run(root, "--split", "val") == 0
    # 3 x (2 x 704 + 672).
    expected = "annotations and annotations_instance agree on 0 of 6,240 instance pixels"
    assert [record.getMessage()[: len(expected)] for record in caplog.records] == [expected]
    assert (root / FOLDER / "ade20k_panoptic_val.json").exists()


def hide_stuff(root: Path) -> None:
    """Lets the labels say wall where the first bed is, and floor, nowhere else, where the window is."""
    for path in (root / FOLDER / "annotations").rglob("*.png"):

        def change(labels: np.ndarray) -> np.ndarray:
            labels[:22, 32:64] = 1
            labels[22:43, :32] = 4
            return labels

        rewrite(path, change)


def stuff_of(root: Path) -> dict[int, tuple[int, list[int]]]:
    """Segment id -> area and box of the stuff of the first image."""
    content = json.loads((root / FOLDER / "ade20k_panoptic_val.json").read_text())
    segments = content["annotations"][0]["segments_info"]
    return {s["id"]: (s["area"], s["bbox"]) for s in segments if s["id"] % 256 == 0}


def perfect_quality(root: Path) -> float:
    """PQ of a prediction that is the PNG itself."""
    folder = root / FOLDER / "ade20k_panoptic_val"
    truth = folder.with_name(f"{folder.name}.json")
    content = json.loads(truth.read_text())
    for annotation in content["annotations"]:
        ids = np.array(Image.open(folder / annotation["file_name"])).astype(int) @ (1, 256, 65536)
        annotation["segments_info"] = [s for s in annotation["segments_info"] if (ids == s["id"]).any()]
    prediction = root / "prediction.json"
    prediction.write_text(json.dumps(content))
    places = ["--gt-json", truth, "--gt-dir", folder, "--pred-json", prediction, "--pred-dir", folder]
    numbers = root / "numbers.json"
    arguments = ["--task", "panoptic", *map(str, places), "--json", str(numbers)]
    assert evaluate_predictions.main(arguments) == 0
    return float(json.loads(numbers.read_text())["panoptic"]["PQ"])


def test_areas_of_stuff_are_taken_before_things_are_pasted_as_published(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hide_stuff(root)
    assert PANOPTIC.run(root) == 0
    # Wall: the first two blocks of row 0 and the last of row 2. Floor has no pixel left, and stays. Sky is not hidden.
    published = {
        256: (22 * 32 * 2 + 21 * 32, [0, 0, 96, 64]),
        768: (21 * 32 * 2, [32, 22, 64, 42]),
        1024: (21 * 32, [0, 22, 32, 21]),
    }
    assert stuff_of(root) == published
    # Classes: bed 100, window 100, sky 100, floor 0, wall: IoU 1376 / 2080 = 0.66154. (300 + 66.154) / 5 = 73.231.
    assert perfect_quality(root) == pytest.approx(73.231, abs=1e-3)
    capsys.readouterr()
    assert PANOPTIC.check(root, "--split", "val") == 0
    assert (
        "areas of stuff are as published, taken before things were pasted over it" in capsys.readouterr().out
    )


@pytest.mark.parametrize("options", [(), ("--exact-areas",)])
def test_the_check_of_datasets_takes_both_forms_and_says_which_it_is(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    hide_stuff(root)
    for case, arguments in ((SEMANTIC, ()), (PANOPTIC, options), (INSTANCES, ())):
        assert case.run(root, "--split", "val", *arguments) == 0
    capsys.readouterr()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    assert main(["datasets", "check", "openvocab_ade20k_panoptic_val", "--jobs", "1"]) == 0
    title, note = capsys.readouterr().out.splitlines()
    assert title == "openvocab_ade20k_panoptic_val: opened every file, no issues"
    assert note.startswith("  areas of stuff are exact" if options else "  areas of stuff are as published")


def test_exact_areas_are_those_of_the_png(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hide_stuff(root)
    assert PANOPTIC.run(root, "--exact-areas") == 0
    assert stuff_of(root) == {
        256: (22 * 32 + 21 * 32, [0, 0, 96, 64]),
        768: (21 * 32 * 2, [32, 22, 64, 42]),
    }
    assert perfect_quality(root) == 100
    capsys.readouterr()
    assert PANOPTIC.check(root, "--split", "val") == 0
    assert "areas of stuff are exact, those of the PNGs; published results are" in capsys.readouterr().out


def test_areas_that_things_cannot_explain_are_an_issue(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hide_stuff(root)
    assert PANOPTIC.run(root) == 0
    path = root / FOLDER / "ade20k_panoptic_val.json"
    content = json.loads(path.read_text())
    segments = {s["id"]: s for s in content["annotations"][0]["segments_info"]}
    # Things have 2 * 704 + 672 = 2,080 pixels. Sky, 1,344 pixels, could have lost no more than these; a bed, none.
    segments[768]["area"] = 1344 + 2081
    segments[2051]["area"] += 1
    path.write_text(json.dumps(content))
    assert PANOPTIC.check(root, "--split", "val") == 1
    out = capsys.readouterr().out
    assert (
        "area of segment id 768 (3425 pixels in ade20k_panoptic_val.json, 1344 in the PNG), 2051 (705" in out
    )
    segments[768]["area"] = 1344 + 2080
    segments[2051]["area"] -= 1
    path.write_text(json.dumps(content))
    assert PANOPTIC.check(root, "--split", "val") == 0


@pytest.mark.parametrize(
    ("folder", "change", "expected"),
    [
        ("annotations_instance", lambda v: np.uint8(101) + np.zeros_like(v), "instances of class [101]"),
        ("annotations_instance", lambda v: v[..., 0], "expected 3 channels of 8 bits"),
        ("annotations_instance", lambda v: v[:-1], "of size (63, 96), labels of size (64, 96)"),
        ("annotations", lambda v: v + np.uint8(1), "values up to 151; expected up to 150"),
    ],
)
def test_raw_images_that_do_not_fit_are_named(
    root: Path, capsys: pytest.CaptureFixture[str], folder: str, change, expected: str
) -> None:
    path = root / FOLDER / folder / "validation" / PANOPTIC_NAME
    rewrite(path, change)
    assert PANOPTIC.run(root) == 1
    error = capsys.readouterr().err
    assert f"{path}: " in error
    assert expected in error


INSTANCES = Case(name="ade20k_instances", make=(make_ade20k,))
JSON = f"{FOLDER}/ade20k_instance_val.json"


def test_each_instance_is_an_annotation_with_a_mask(root: Path) -> None:
    assert INSTANCES.run(root, "--jobs", "2") == 0
    content = json.loads((root / JSON).read_text())
    first = [a for a in content["annotations"] if a["image_id"] == "ADE_val_00000001"]
    # Two beds side by side above, a window below them at the left.
    assert [(a["category_id"], a["area"], a["bbox"]) for a in first] == [
        (7, 22 * 32, [32, 0, 32, 22]),
        (7, 22 * 32, [64, 0, 32, 22]),
        (8, 21 * 32, [0, 22, 32, 21]),
    ]
    mask = rle.decode(first[0]["segmentation"])
    expected = np.zeros((64, 96), dtype=np.uint8)
    expected[:22, 32:64] = 1
    assert np.array_equal(mask, expected)
    assert [a["id"] for a in content["annotations"]] == list(range(1, 10))
    assert INSTANCES.check(root) == 0


def test_categories_are_the_things_by_the_index_of_their_class(root: Path) -> None:
    assert INSTANCES.run(root) == 0
    categories = json.loads((root / JSON).read_text())["categories"]
    assert len(categories) == 100
    assert categories[:3] == [
        {"id": 7, "name": "bed"},
        {"id": 8, "name": "window"},
        {"id": 10, "name": "cabinet"},
    ]
    assert categories[-1] == {"id": 149, "name": "flag"}


def test_the_file_is_written_only_when_every_image_is_whole(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / FOLDER / "annotations_instance/validation/ADE_val_00000002.png"
    whole = path.read_bytes()
    truncate(path)
    assert INSTANCES.run(root) == 1
    assert f"{path}: damaged" in capsys.readouterr().err
    assert not (root / JSON).exists()
    assert (root / FOLDER / "ade20k_instance_train.json").exists()
    path.write_bytes(whole)
    assert INSTANCES.run(root) == 0
    assert f"{FOLDER}/ade20k_instance_train.json: already exists" in capsys.readouterr().out
    assert (root / JSON).exists()


def test_overwrite_makes_the_file_again(root: Path) -> None:
    assert INSTANCES.run(root) == 0
    before = (root / JSON).read_text()
    changed = before.replace("flag", "banner")
    (root / JSON).write_text(changed)
    assert INSTANCES.run(root) == 0
    assert (root / JSON).read_text() == changed
    assert INSTANCES.run(root, "--overwrite") == 0
    assert (root / JSON).read_text() == before


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda c: c["annotations"][0].update(category_id=6),
            "category id 6, which categories does not list, is no thing class",
        ),
        (lambda c: c["annotations"][1].update(id=1), "annotation id 1 is given twice"),
        (
            lambda c: c["images"][0].update(width=95),
            "says of ADE_val_00000001.jpg (64, 95) (H, W), the image has (64, 96)",
        ),
        (lambda c: c["images"].pop(), "ADE_val_00000003.jpg: ade20k_instance_val.json does not list it"),
    ],
)
def test_the_check_finds_issues_of_the_file(
    root: Path, capsys: pytest.CaptureFixture[str], change, expected: str
) -> None:
    assert INSTANCES.run(root) == 0
    content = json.loads((root / JSON).read_text())
    change(content)
    (root / JSON).write_text(json.dumps(content))
    assert INSTANCES.check(root) == 1
    assert expected in capsys.readouterr().out


FULL = Case(name="ade20k_full", make=(make_ade20k_full,))
FULL_FOLDER = "ADE20K_2021_17_01"


def test_objects_become_train_ids_of_16_bits_and_images_lie_in_one_folder(tmp_path: Path) -> None:
    FULL.write(tmp_path)
    assert FULL.run(tmp_path) == 0
    labels = tmp_path / FULL_FOLDER / "annotations_detectron2"
    values = np.array(Image.open(labels / "training" / "ADE_train_00016869.tif"))
    assert values.dtype == np.uint16
    # Objects 2978 (wall), 312 (building), 165 (bed) | 1 (none of the 847), 0 (nothing), 2978. In the file wall is
    # R = 2978 // 256 * 10 + B = 110 + 1, G = 2978 % 256 = 162; R / 10 drops the 1.
    assert values[::32, ::32].tolist() == [[0, 1, 7], [65535, 65535, 0]]
    names = {str(path.relative_to(labels)) for path in labels.rglob("*.tif")}
    assert names == {
        "training/ADE_train_00000001.tif",
        "training/ADE_train_00016869.tif",
        "validation/ADE_val_00000001.tif",
        "validation/ADE_val_00001471.tif",
    }
    image = tmp_path / FULL_FOLDER / "images_detectron2/training/ADE_train_00016869.jpg"
    released = tmp_path / FULL_FOLDER / "images/ADE/training/urban/street/ADE_train_00016869.jpg"
    assert image.samefile(released)  # a hard link takes no room


def test_there_are_847_objects_that_differ() -> None:
    assert len(objects()) == len(set(objects())) == 847
    assert objects()[:3] == (2978, 312, 2420)
    assert objects()[846] == 3148
    assert max(objects()) < OBJECTS


def test_a_missing_image_is_made_again(tmp_path: Path) -> None:
    FULL.write(tmp_path)
    assert FULL.run(tmp_path) == 0
    image = tmp_path / FULL_FOLDER / "images_detectron2/validation/ADE_val_00001471.jpg"
    image.unlink()
    assert FULL.check(tmp_path) == 1
    assert FULL.run(tmp_path) == 0
    assert image.exists()
    assert FULL.check(tmp_path) == 0


def write_large_scene(root: Path, *, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Replaces the bedroom of val by a larger one; returns its pixels and its train ids, wall left and bed right."""
    folder = root / FULL_FOLDER / "images/ADE/validation/home_or_hotel/bedroom"
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    small.resize((width, height), Image.Resampling.BICUBIC).save(folder / "ADE_val_00000001.jpg", quality=100)
    objects = np.full((height, width), 2978)
    objects[:, width // 2 :] = 165
    segments = np.stack([objects // 256 * 10, objects % 256, np.ones_like(objects)], axis=-1)
    Image.fromarray(segments.astype(np.uint8)).save(folder / "ADE_val_00000001_seg.png")
    return np.array(Image.open(folder / "ADE_val_00000001.jpg")), np.where(objects == 165, 7, 0)


@pytest.mark.parametrize(
    ("height", "width", "new"),
    [
        (600, 900, (512, 768)),
        (1025, 515, (1019, 512)),
        (513, 513, (512, 512)),
        (512, 700, None),
        (90, 600, None),
    ],
)
def test_images_with_a_shorter_side_above_512_are_shrunk_with_their_labels(
    tmp_path: Path, height: int, width: int, new: tuple[int, int] | None
) -> None:
    FULL.write(tmp_path)
    pixels, train_ids = write_large_scene(tmp_path, height=height, width=width)
    assert FULL.run(tmp_path, "--split", "val") == 0
    base = tmp_path / FULL_FOLDER
    image = base / "images_detectron2/validation/ADE_val_00000001.jpg"
    labels = np.array(Image.open(base / "annotations_detectron2/validation/ADE_val_00000001.tif"))
    released = base / "images/ADE/validation/home_or_hotel/bedroom/ADE_val_00000001.jpg"
    assert image.samefile(released) == (new is None)
    assert np.array_equal(np.array(Image.open(released)), pixels)
    with Image.open(image) as opened:
        assert (opened.format, opened.size) == ("JPEG", (new or (height, width))[::-1])
        shown = np.array(opened).astype(int)
    expected = np.zeros_like(labels)
    # Nearest: the pixel at the upper left corner of what the new pixel covers.
    for y in range(labels.shape[0]):
        row = train_ids[y * height // labels.shape[0]]
        expected[y] = [row[x * width // labels.shape[1]] for x in range(labels.shape[1])]
    assert np.array_equal(labels, expected)
    # Bilinear between the four pixels around the center of the new one, but for what JPEG changes.
    y, x = 100, 200
    v, u = (y + 0.5) * height / labels.shape[0] - 0.5, (x + 0.5) * width / labels.shape[1] - 0.5
    if new is not None:
        (j, b), (i, a) = divmod(v, 1), divmod(u, 1)
        four = pixels[int(j) : int(j) + 2, int(i) : int(i) + 2].astype(float)
        mixed = np.tensordot([1 - b, b], np.tensordot([1 - a, a], four, axes=(0, 1)), axes=(0, 0))
        assert np.abs(shown[y, x] - mixed).max() <= 4
    assert FULL.check(tmp_path, "--split", "val") == 0


def test_full_size_keeps_large_images_as_they_are(tmp_path: Path) -> None:
    FULL.write(tmp_path)
    write_large_scene(tmp_path, height=600, width=900)
    assert FULL.run(tmp_path, "--split", "val", "--full-size") == 0
    base = tmp_path / FULL_FOLDER
    image = base / "images_detectron2/validation/ADE_val_00000001.jpg"
    assert image.samefile(base / "images/ADE/validation/home_or_hotel/bedroom/ADE_val_00000001.jpg")
    labels = Image.open(base / "annotations_detectron2/validation/ADE_val_00000001.tif")
    assert labels.size == (900, 600)
    # The other form is made only where that is asked for, and does not reach through the hard link into the release.
    released = image.read_bytes()
    assert FULL.run(tmp_path, "--split", "val") == 0
    assert image.read_bytes() == released
    assert FULL.run(tmp_path, "--split", "val", "--overwrite") == 0
    assert Image.open(image).size == (768, 512)
    raw = base / "images/ADE/validation/home_or_hotel/bedroom/ADE_val_00000001.jpg"
    assert raw.read_bytes() == released


def test_shrunk_pixels_are_mixed_by_their_distance() -> None:
    # 3 -> 2 columns: centers at 0.25 and 1.75 of the old ones: 0.75 * 0 + 0.25 * 100, and 0.25 * 100 + 0.75 * 40.
    line = np.array([[[0] * 3, [100] * 3, [40] * 3]], dtype=np.uint8)
    assert resize_bilinear(line, (1, 2))[0, :, 0].tolist() == [25, 55]
    assert resize_bilinear(line.transpose(1, 0, 2), (2, 1))[:, 0, 0].tolist() == [25, 55]
    assert downscaled_size(683, 1024) == (512, 768)  # 1024 * 512 / 683 = 767.6
    assert downscaled_size(1200, 600) == (1024, 512)


def test_an_image_that_does_not_fit_to_its_objects_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FULL.write(tmp_path)
    write_large_scene(tmp_path, height=600, width=900)
    image = tmp_path / FULL_FOLDER / "images/ADE/validation/home_or_hotel/bedroom/ADE_val_00000001.jpg"
    rewrite(image, lambda values: values[:-1])
    assert FULL.run(tmp_path, "--split", "val") == 1
    assert f"{image}: of size (599, 900), objects of size (600, 900)" in capsys.readouterr().err


def test_the_full_release_is_a_file_of_the_users_own_name() -> None:
    document = (Path(__file__).parents[2] / "datasets" / "README.md").read_text(encoding="utf-8")
    for text in (document, get_preparation("ade20k_full").download):
        assert "{username}_{hash}.zip" in text
        assert "ADE20K_2021_17_01.zip" not in text


def test_pngs_of_another_program_are_not_described_as_ones_own(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert PANOPTIC.run(root, "--split", "val") == 0
    json_file = root / FOLDER / "ade20k_panoptic_val.json"
    json_file.unlink()
    png = root / FOLDER / "ade20k_panoptic_val" / PANOPTIC_NAME
    rewrite(png, lambda values: values + np.uint8(1))
    assert PANOPTIC.run(root, "--split", "val") == 1
    assert f"{png}: differs from what this command creates from " in capsys.readouterr().err
    assert not json_file.exists()
