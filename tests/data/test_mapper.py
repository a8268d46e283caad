# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.panoptic import TinyPanoptic, write_tiny_panoptic
from PIL import Image

from cmpf.data.datasets.readers import read_coco_panoptic
from cmpf.data.mapper import (
    DatasetMapper,
    InstanceTargets,
    PanopticTargets,
    SemanticTargets,
    panoptic_targets,
    read_panoptic_ids,
    semantic_targets,
)
from cmpf.data.transforms.geometric import (
    LargeScaleJitter,
    PadToMultiple,
    RandomCrop,
    RandomHorizontalFlip,
    Resize,
    ResizeShortestEdge,
)
from cmpf.errors import DatasetError, ImageError
from cmpf.formats import image as images
from cmpf.formats.image import resize_shortest_edge
from cmpf.types import Sample, SegmentInfo


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPanoptic:
    return write_tiny_panoptic(tmp_path, count=2, crowd=True)


@pytest.fixture
def samples(tiny: TinyPanoptic) -> list[Sample]:
    return read_coco_panoptic(**tiny.reader_arguments)


def training_mapper(size: int = 48) -> DatasetMapper:
    jitter = LargeScaleJitter(size=size, min_scale=0.1, max_scale=2.0)
    return DatasetMapper(
        augmentations=[RandomHorizontalFlip(), jitter], target=PanopticTargets(), image_pad=128
    )


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_without_augmentation_training_gives_the_image_and_its_targets(
    tiny: TinyPanoptic, samples: list[Sample]
) -> None:
    mapper = DatasetMapper(augmentations=[], target=PanopticTargets(), image_pad=128)
    result = mapper(samples[1], rng())
    expected = panoptic_targets(tiny.ids[1].astype(np.int32), samples[1]["segments_info"])
    assert np.array_equal(result["image"].permute(1, 2, 0).numpy(), tiny.images[1])
    assert result["image"].dtype == torch.uint8
    assert torch.equal(result["targets"]["masks"], expected["masks"])
    assert torch.equal(result["targets"]["labels"], expected["labels"])


def test_training_samples_carry_their_name_and_no_ground_truth_files(samples: list[Sample]) -> None:
    result = training_mapper()(samples[0], rng())
    assert set(result) == {"file_name", "image_id", "height", "width", "image", "targets"}
    assert (result["height"], result["width"]) == (24, 32)


def test_masks_have_the_size_of_the_augmented_image(samples: list[Sample]) -> None:
    for seed in range(20):
        result = training_mapper()(samples[0], rng(seed))
        count = len(result["targets"]["labels"])
        assert result["image"].shape == (3, 48, 48)
        assert result["targets"]["masks"].shape == (count, 48, 48)
        assert result["targets"]["masks"].flatten(1).any(dim=1).all()


def test_padding_belongs_to_no_target(samples: list[Sample]) -> None:
    jitter = LargeScaleJitter(size=64, min_scale=0.5, max_scale=0.5)  # 24 x 32 becomes 24 x 32
    mapper = DatasetMapper(augmentations=[jitter], target=PanopticTargets(), image_pad=128)
    result = mapper(samples[0], rng())
    assert (result["image"][:, 24:] == 128).all()
    assert (result["image"][:, :, 32:] == 128).all()
    assert not result["targets"]["masks"][:, 24:].any()
    assert not result["targets"]["masks"][:, :, 32:].any()


def test_in_testing_the_sample_keeps_its_keys_and_its_original_size(samples: list[Sample]) -> None:
    augmentation = ResizeShortestEdge(short_side=48, max_side=100)
    mapper = DatasetMapper(augmentations=[augmentation], target=None, image_pad=128)
    result = mapper(samples[0], rng())
    assert result["image"].shape == (3, 48, 64)
    assert (result["height"], result["width"]) == (24, 32)
    assert set(result) == {*samples[0], "image"}


def test_an_image_without_listed_size_gets_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (7, 5)).save(path)
    mapper = DatasetMapper(augmentations=[Resize(size=(10, 10))], target=None, image_pad=128)
    result = mapper({"file_name": str(path)}, rng())
    assert result["image"].shape == (3, 10, 10)
    assert (result["height"], result["width"]) == (5, 7)


@pytest.mark.parametrize("max_side", [1000, 90])  # 90: the longer side decides
def test_in_testing_a_large_jpeg_is_decoded_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_side: int
) -> None:
    wave = np.linspace(0, 6, 480)[:, None] + np.linspace(0, 9, 640)
    pixels = np.stack([127 + 120 * np.sin(wave + phase) for phase in (0, 1, 2)], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    decoded: list[tuple[int, ...]] = []
    resize = images.resize_image

    def watched(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        decoded.append(image.shape[:2])
        return resize(image, size)

    monkeypatch.setattr(images, "resize_image", watched)
    sample: Sample = {"file_name": str(tmp_path / "a.jpg"), "height": 480, "width": 640}
    edge = ResizeShortestEdge(short_side=70, max_side=max_side)
    found = DatasetMapper(augmentations=[edge], target=None, image_pad=0)(sample, rng())
    # Twice 70 x 93 is 140 x 187 (twice 68 x 90: 135 x 180), and a third of 480 x 640 is still larger: a half.
    assert decoded == [(240, 320)]
    assert (found["height"], found["width"]) == (480, 640)
    whole = resize_shortest_edge(images.read_image(tmp_path / "a.jpg"), short_side=70, max_side=max_side)
    assert found["image"].shape == (3, *whole.shape[:2])
    difference = np.abs(found["image"].permute(1, 2, 0).numpy().astype(int) - whole.astype(int))
    assert difference.max() <= 2


def test_the_mapper_leaves_its_input_as_it_is_and_its_output_writable(samples: list[Sample]) -> None:
    before = copy.deepcopy(samples[0])
    result = training_mapper()(samples[0], rng())
    result["image"].zero_()
    assert samples[0] == before


def test_equal_generators_give_equal_samples_and_others_do_not(samples: list[Sample]) -> None:
    mapper = training_mapper()
    first, second, other = (mapper(samples[0], rng(seed))["image"] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_nothing_is_drawn_from_the_global_generators(samples: list[Sample]) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    training_mapper()(samples[0], rng())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[index]


def test_a_mapper_can_be_sent_to_a_worker_process(samples: list[Sample]) -> None:
    mapper = pickle.loads(pickle.dumps(training_mapper()))
    assert torch.equal(mapper(samples[0], rng())["image"], training_mapper()(samples[0], rng())["image"])


def test_an_image_of_another_size_than_listed_is_refused(samples: list[Sample]) -> None:
    sample: Sample = {**samples[0], "height": 23}
    message = (
        r"1\.png: the image has \(24, 32\) pixels \(H, W\), its entry in the annotations says \(23, 32\)"
    )
    with pytest.raises(DatasetError, match=message):
        training_mapper()(sample, rng())


def test_labels_of_another_size_than_the_image_are_refused(tiny: TinyPanoptic, samples: list[Sample]) -> None:
    Image.new("RGB", (32, 25)).save(tiny.folder / "panoptic" / "1.png")
    with pytest.raises(DatasetError, match=r"its label map has \(25, 32\).*prepare the dataset again"):
        training_mapper()(samples[0], rng())


def test_a_damaged_image_is_named(tiny: TinyPanoptic, samples: list[Sample]) -> None:
    (tiny.folder / "images" / "1.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"images/1\.png: the file is empty"):
        training_mapper()(samples[0], rng())


def test_the_same_mapper_serves_classes(tiny: TinyPanoptic, samples: list[Sample]) -> None:
    crop = RandomCrop(kind="absolute", size=(16, 16), max_class_share=0.75)
    mapper = DatasetMapper(
        augmentations=[crop, PadToMultiple(divisor=32)],
        target=SemanticTargets(num_classes=3, ignore_label=255),
        image_pad=128,
    )
    keys = ("file_name", "image_id", "sem_seg_file_name")
    sample: Sample = {key: samples[0][key] for key in keys}  # type: ignore[literal-required,misc,assignment]
    result = mapper(sample, rng())
    masks, labels = result["targets"]["masks"], result["targets"]["labels"].tolist()
    assert result["image"].shape == (3, 32, 32)
    assert masks.shape == (len(labels), 32, 32)
    assert set(labels) <= {0, 1, 2}
    assert masks.sum(dim=0).max() == 1  # a pixel has one class
    assert not masks[:, 16:].any()
    assert (result["height"], result["width"]) == (24, 32)
    assert set(result) == {"file_name", "image_id", "height", "width", "image", "targets"}


def test_the_same_mapper_serves_objects(tiny: TinyPanoptic, samples: list[Sample]) -> None:
    mapper = DatasetMapper(augmentations=[], target=InstanceTargets(), image_pad=128)
    result = mapper(samples[1], rng())
    expected = {2002: 1, 2003: 0}  # dog and cat; the crowd of dogs is left out
    masks = dict(zip(result["targets"]["labels"].tolist(), result["targets"]["masks"].numpy(), strict=True))
    for identity, index in expected.items():
        assert np.array_equal(masks[index], tiny.ids[1] == identity)


def test_jitter_moves_masks_of_objects_with_the_image(tiny: TinyPanoptic, samples: list[Sample]) -> None:
    jitter = LargeScaleJitter(size=48, min_scale=0.1, max_scale=2.0)
    by_mask = DatasetMapper(augmentations=[jitter], target=InstanceTargets(), image_pad=128)
    by_id = DatasetMapper(augmentations=[jitter], target=PanopticTargets(), image_pad=128)
    for seed in range(10):
        objects = by_mask(samples[0], rng(seed))["targets"]
        segments = by_id(samples[0], rng(seed))["targets"]
        things = segments["labels"] != 2  # without grass
        assert torch.equal(objects["labels"], segments["labels"][things])
        assert torch.equal(objects["masks"], segments["masks"][things])


def test_masks_of_another_size_than_the_image_are_refused(samples: list[Sample]) -> None:
    sample: Sample = {**samples[0]}
    del sample["height"], sample["width"]
    mapper = DatasetMapper(
        augmentations=[], target=SemanticTargets(num_classes=3, ignore_label=255), image_pad=0
    )
    Image.new("L", (31, 24)).save(sample["sem_seg_file_name"])
    with pytest.raises(DatasetError, match=r"1\.png: the image has \(24, 32\).*its label map has \(24, 31\)"):
        mapper(sample, rng())


# An image drawn by hand: void (0) at the top, segment 7 at the left, 300 = 44 + 256 * 1 at the right,
# 65793 = 1 + 256 * 1 + 65536 * 1 at the bottom.
DRAWN = np.array(
    [
        [0, 0, 0, 0],
        [7, 7, 300, 300],
        [7, 7, 300, 300],
        [65793, 65793, 65793, 300],
    ]
)
COLORS = {0: (0, 0, 0), 7: (7, 0, 0), 300: (44, 1, 0), 65793: (1, 1, 1)}
SEGMENTS: list[SegmentInfo] = [
    {"id": 300, "category_id": 4, "iscrowd": 0},
    {"id": 7, "category_id": 2, "iscrowd": 0},
    {"id": 65793, "category_id": 4, "iscrowd": 0},
]


def write_drawn(path: Path) -> Path:
    rgb = np.array([[COLORS[i] for i in row] for row in DRAWN.tolist()], np.uint8)
    Image.fromarray(rgb).save(path)
    return path


def test_the_hand_drawn_png_gives_its_ids(tmp_path: Path) -> None:
    ids = read_panoptic_ids(write_drawn(tmp_path / "drawn.png"))
    assert ids.dtype == np.int32
    assert np.array_equal(ids, DRAWN)


def test_every_listed_segment_becomes_a_target_in_the_order_of_the_list() -> None:
    targets = panoptic_targets(DRAWN.astype(np.int32), SEGMENTS)
    assert targets["labels"].tolist() == [4, 2, 4]
    assert targets["labels"].dtype == torch.int64
    assert targets["masks"].dtype == torch.bool
    # right part: two rows of two, and the corner; left: two rows of two; bottom: three
    assert targets["masks"].sum(dim=(1, 2)).tolist() == [5, 4, 3]
    assert targets["masks"][1].tolist() == (DRAWN == 7).tolist()


def test_crowds_void_and_unlisted_ids_are_no_targets() -> None:
    segments: list[SegmentInfo] = [{**SEGMENTS[0], "iscrowd": 1}, SEGMENTS[1]]
    targets = panoptic_targets(DRAWN.astype(np.int32), segments)
    assert targets["labels"].tolist() == [2]
    assert not targets["masks"][:, 0].any()  # void row
    assert not targets["masks"][:, 3].any()  # the unlisted segment, and the crowd's corner


def test_segments_without_a_pixel_are_left_out() -> None:
    targets = panoptic_targets(DRAWN[:2].astype(np.int32), SEGMENTS)
    assert targets["labels"].tolist() == [4, 2]
    assert targets["masks"].shape == (2, 2, 4)


@pytest.mark.parametrize("segments", [[], [{"id": 7, "category_id": 0, "iscrowd": 1}]])
def test_an_image_without_targets_gives_empty_tensors(segments: list[SegmentInfo]) -> None:
    targets = panoptic_targets(DRAWN.astype(np.int32), segments)
    assert targets["labels"].shape == (0,)
    assert targets["masks"].shape == (0, 4, 4)


def test_random_images_agree_with_a_loop_over_pixels() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        ids = generator.integers(0, 6, (5, 7)).astype(np.int32)
        segments: list[SegmentInfo] = [
            {"id": i, "category_id": int(generator.integers(9)), "iscrowd": int(generator.random() < 0.3)}
            for i in range(1, 8)
        ]
        expected = []
        for segment in segments:
            mask = [[pixel == segment["id"] for pixel in row] for row in ids.tolist()]
            if not segment["iscrowd"] and any(map(any, mask)):
                expected.append((segment["category_id"], mask))
        targets = panoptic_targets(ids, segments)
        assert list(zip(targets["labels"].tolist(), targets["masks"].tolist(), strict=True)) == expected


def test_the_target_source_reads_and_builds_from_a_sample(tmp_path: Path) -> None:
    source = PanopticTargets()
    path = write_drawn(tmp_path / "drawn.png")
    ids = source.read({"pan_seg_file_name": str(path)})
    mirrored = source.build(ids[:, ::-1], {"segments_info": SEGMENTS})
    assert mirrored["masks"][1].tolist() == (DRAWN[:, ::-1] == 7).tolist()
    assert source.label_pad == 0


def test_every_class_of_a_map_becomes_one_target() -> None:
    targets = semantic_targets(np.array([[5, -1, 2], [2, 5, 5]], np.int32))
    assert targets["labels"].tolist() == [2, 5]
    assert targets["labels"].dtype == torch.int64
    assert targets["masks"].dtype == torch.bool
    assert targets["masks"].tolist() == [
        [[False, False, True], [True, False, False]],
        [[True, False, False], [False, True, True]],
    ]


def test_a_map_without_classes_gives_empty_tensors() -> None:
    targets = semantic_targets(np.full((2, 3), -1, np.int32))
    assert targets["labels"].shape == (0,)
    assert targets["masks"].shape == (0, 2, 3)


def test_semantic_targets_come_from_a_sixteen_bit_file_through_its_label_map(tmp_path: Path) -> None:
    path = tmp_path / "labels.tif"
    Image.fromarray(np.array([[300, 65535], [7, 300]], np.uint16)).save(path)
    source = SemanticTargets(num_classes=2, ignore_label=65535, class_of_id={300: 0, 7: 1})
    sample: Sample = {"sem_seg_file_name": str(path)}
    labels = source.read(sample)
    targets = source.build(labels[:, ::-1], sample)
    assert targets["labels"].tolist() == [0, 1]
    assert targets["masks"].tolist() == [[[False, True], [True, False]], [[False, False], [False, True]]]
    assert source.label_pad == -1  # padding is no class


SQUARE = [[1.0, 0.0, 3.0, 0.0, 3.0, 2.0, 1.0, 2.0]]  # columns 1 and 2 of rows 0 and 1


def instance_sample() -> Sample:
    """A square, a crowd, and all but the first pixel of a 3 x 4 image, the last two as run lengths."""
    return {
        "file_name": "a.jpg",
        "height": 3,
        "width": 4,
        "annotations": [
            {"id": 1, "category_id": 5, "segmentation": SQUARE, "iscrowd": 0},
            {"id": 2, "category_id": 5, "segmentation": {"size": [3, 4], "counts": [0, 12]}, "iscrowd": 1},
            {"id": 3, "category_id": 2, "segmentation": {"size": [3, 4], "counts": [1, 11]}},
        ],
    }


def test_objects_become_targets_that_may_overlap_and_crowds_do_not() -> None:
    source = InstanceTargets()
    masks = source.read(instance_sample())
    targets = source.build(masks, instance_sample())
    assert targets["labels"].tolist() == [5, 2]
    assert targets["labels"].dtype == torch.int64
    square, rest = targets["masks"].tolist()
    assert square == [[False, True, True, False], [False, True, True, False], [False] * 4]
    assert rest == [[False, True, True, True], [True] * 4, [True] * 4]


def test_objects_that_a_crop_left_no_pixel_are_left_out() -> None:
    source = InstanceTargets()
    targets = source.build(source.read(instance_sample())[:, 2:], instance_sample())
    assert targets["labels"].tolist() == [2]
    assert targets["masks"].shape == (1, 1, 4)


def test_an_image_without_objects_gives_empty_tensors() -> None:
    source = InstanceTargets()
    sample: Sample = {**instance_sample(), "annotations": instance_sample()["annotations"][1:2]}
    targets = source.build(source.read(sample), sample)
    assert targets["labels"].shape == (0,)
    assert targets["masks"].shape == (0, 3, 4)


def test_an_unusable_mask_is_named() -> None:
    sample = instance_sample()
    sample["annotations"][0]["segmentation"] = [[1.0, 2.0]]
    with pytest.raises(DatasetError, match=r"a\.jpg: the mask of annotation 1: a polygon needs three points"):
        InstanceTargets().read(sample)
