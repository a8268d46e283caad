# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.detectron2_host import needs

from cmpf.data import Vocabulary
from cmpf.errors import TrainingError
from cmpf.types import InstanceResult, ModelResult

conversion = needs("cmpf.detectron2.conversion")
structures = needs("detectron2.structures")
WORDS = Vocabulary(classes=[["cat"], ["dog"], ["grass"], ["sky"]], things=[0, 1])
IMAGE = torch.arange(3 * 4 * 6, dtype=torch.uint8).view(3, 4, 6)
LEFT = torch.zeros(4, 6, dtype=torch.bool)
LEFT[:, :2] = True


def instances(masks: object, classes: list[int]) -> object:
    found = structures.Instances((4, 6))
    found.gt_classes = torch.tensor(classes)
    found.gt_masks = masks
    return found


def targets(**given: object) -> tuple[list[int], torch.Tensor]:
    (sample,) = conversion.to_samples([{"image": IMAGE, **given}], bgr=False, classes=WORDS)
    assert "instances" not in sample
    assert sample["targets"]["masks"].dtype is torch.bool
    return sample["targets"]["labels"].tolist(), sample["targets"]["masks"]


def test_masks_of_every_kind_become_the_same_targets() -> None:
    # The polygon goes around columns 0 and 1 of all 4 rows.
    polygons = structures.PolygonMasks([[np.array([0.0, 0, 2, 0, 2, 4, 0, 4])]])
    for masks in (structures.BitMasks(LEFT[None]), LEFT[None], LEFT[None].to(torch.uint8), polygons):
        labels, found = targets(instances=instances(masks, [1]))
        assert labels == [1]
        assert torch.equal(found, LEFT[None])


def test_a_label_map_gives_one_target_a_known_class() -> None:
    image = torch.full((4, 6), 255)
    image[:, :2] = 3
    image[0, 5] = 1
    image[1, 5] = 4  # WORDS has 0..3
    labels, masks = targets(sem_seg=image)
    assert labels == [1, 3]
    assert torch.equal(masks[1], LEFT)
    assert masks.sum().item() == 9  # 8 pixels of class 3, one of class 1


def test_beside_instances_a_label_map_gives_the_stuff_that_they_lack() -> None:
    image = torch.full((4, 6), 2)
    image[0] = 3
    image[1] = 1  # a thing: instances have those
    labels, _ = targets(sem_seg=image, instances=instances(LEFT[None], [0]))
    assert labels == [0, 2, 3]
    stuff_among_instances, _ = targets(sem_seg=image, instances=instances(LEFT[None], [2]))
    assert stuff_among_instances == [2, 3]


def test_an_image_without_objects_has_no_targets() -> None:
    labels, masks = targets(instances=structures.Instances((4, 6)))
    assert labels == []
    assert masks.shape == (0, 4, 6)


def test_instances_without_masks_are_an_error_that_names_the_fix() -> None:
    found = structures.Instances((4, 6), gt_classes=torch.tensor([0]))
    with pytest.raises(TrainingError, match=r"a\.jpg: its instances have no gt_masks.*MODEL\.MASK_ON True"):
        targets(instances=found, file_name="a.jpg")


def test_our_own_targets_pass_unchanged() -> None:
    own = {"labels": torch.tensor([2]), "masks": LEFT[None]}
    (sample,) = conversion.to_samples([{"image": IMAGE, "targets": own}], bgr=False, classes=WORDS)
    assert sample["targets"] is own
    assert sample["image"] is IMAGE


def test_bgr_images_are_turned_to_rgb() -> None:
    (sample,) = conversion.to_samples([{"image": IMAGE, "height": 9}], bgr=True, classes=WORDS)
    assert torch.equal(sample["image"], IMAGE[[2, 1, 0]])
    assert sample["height"] == 9


def result() -> ModelResult:
    return {
        "sem_seg": torch.rand(4, 4, 6),
        "panoptic_seg": (
            torch.ones(4, 6, dtype=torch.int32),
            [{"id": 1, "category_id": 2, "isthing": False}],
        ),
        "instances": InstanceResult(
            pred_masks=LEFT[None],
            pred_boxes=torch.tensor([[0.0, 0, 2, 4]]),
            scores=torch.tensor([0.5]),
            pred_classes=torch.tensor([1]),
        ),
        "proposals": LEFT[None],
    }


def test_results_are_detectron2s_structures() -> None:
    output = conversion.to_detectron2(result())
    found = output["instances"]
    assert isinstance(found, structures.Instances)
    assert found.image_size == (4, 6)
    assert isinstance(found.pred_boxes, structures.Boxes)
    assert found.pred_boxes.area().item() == 8.0  # 2 x 4
    assert torch.equal(found.pred_masks, LEFT[None])
    assert "proposals" not in output  # Detectron2's COCOEvaluator would take them for boxes
    assert torch.equal(output["mask_proposals"], LEFT[None])


def test_detectron2s_changes_to_segments_do_not_reach_ours() -> None:
    own = result()
    output = conversion.to_detectron2(own)
    output["panoptic_seg"][1][0].pop("isthing")
    assert own["panoptic_seg"][1] == [{"id": 1, "category_id": 2, "isthing": False}]


def test_results_come_back_as_they_were() -> None:
    own = result()
    back = conversion.to_result(conversion.to_detectron2(own))
    assert back.keys() == own.keys()
    assert torch.equal(back["sem_seg"], own["sem_seg"])
    assert torch.equal(back["proposals"], own["proposals"])
    for field in ("pred_masks", "pred_boxes", "scores", "pred_classes"):
        assert torch.equal(getattr(back["instances"], field), getattr(own["instances"], field))
