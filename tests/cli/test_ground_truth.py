# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.own_dataset import SOURCE, change_json, copy_own_dataset
from PIL import Image

from cmpf.cli.datasets import dataset_name
from cmpf.cli.ground_truth import chosen_samples, from_files, from_training
from cmpf.data.datasets.catalog import get_dataset
from cmpf.data.datasets.spec import Dataset
from cmpf.data.mapper import DatasetMapper
from cmpf.data.targets import PanopticTargets
from cmpf.errors import DatasetError
from cmpf.visualization.ground_truth import TrueRegion

NAMES = ("apple", "pear", "lemon", "plum", "table", "wall")


def own_dataset(name: str, folder: Path = SOURCE) -> Dataset:
    return get_dataset(dataset_name(str(folder / f"{name}.yaml")))


def class_map(regions: list[TrueRegion] | tuple[TrueRegion, ...]) -> np.ndarray:
    """Class index of each pixel, 255 where no region is."""
    classes = np.full((96, 96), 255, dtype=np.uint8)
    for region in regions:
        classes[region.mask] = region.category
    return classes


@pytest.mark.parametrize("name", ["fruit_val", "fruit_semantic", "fruit_instances"])
def test_all_kinds_of_ground_truth_of_an_image_agree_with_its_label_map(name: str) -> None:
    dataset = own_dataset(name)
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
        dataset = own_dataset(name, own)
        _, regions = from_files(dataset, dataset.samples[0])
        assert sum(region.crowd for region in regions) == 1


def test_a_mask_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    own = copy_own_dataset(tmp_path)
    change_json(
        own / "instances_val.json",
        lambda content: content["annotations"][0]["segmentation"].update(counts=7),
    )
    dataset = own_dataset("fruit_instances", own)
    with pytest.raises(DatasetError, match=r"bowl_01\.jpg: the mask of annotation 1: cannot be decoded"):
        from_files(dataset, dataset.samples[0])


def test_samples_are_chosen_at_random_in_order_and_each_once() -> None:
    dataset = own_dataset("fruit_train")
    chosen = chosen_samples(dataset, 5, np.random.default_rng(0))
    names = [sample["file_name"] for sample in chosen]
    assert names == sorted(set(names))
    assert len(names) == 5
    assert chosen_samples(dataset, 99, np.random.default_rng(0)) == list(dataset.samples)


def test_what_training_sees_comes_from_its_mapper() -> None:
    dataset = own_dataset("fruit_val")
    mapper = DatasetMapper(augmentations=[], target=PanopticTargets(), image_pad=0)
    image, regions = from_training(mapper, dataset.samples[0], np.random.default_rng(0))
    plain, same = from_files(dataset, dataset.samples[0])
    assert np.array_equal(image, plain)
    assert np.array_equal(class_map(list(regions)), class_map(list(same)))
