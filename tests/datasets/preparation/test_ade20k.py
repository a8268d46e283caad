# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from preparation.ade20k import CLASSES, STUFF, THINGS, read_instances
from preparation.classes import class_names

from cmpf.data.datasets.catalog import get_vocabulary
from cmpf.errors import DatasetError

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
    assert len(THINGS) == 100
    assert len(STUFF) == CLASSES - 100
    names = class_names("ade20k_150", count=CLASSES)
    found = {place: names[THINGS[place - 1]] for place in PUBLISHED}
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
    assert tuple(index for index, flag in enumerate(flags) if flag) == THINGS


@pytest.mark.parametrize("wrong", [0, 101])
def test_instances_of_no_class_are_refused(tmp_path: Path, wrong: int) -> None:
    Image.new("RGB", (2, 2), (wrong, 1, 0)).save(tmp_path / "a.png")
    with pytest.raises(
        DatasetError, match=rf"a\.png: instances of class \[{wrong}\]; the benchmark has 1\.\.100"
    ):
        read_instances(tmp_path / "a.png")
