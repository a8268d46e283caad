# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Semantic, instance and combined results of one image."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.tiny_model import mask_ensemble, random_image
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import cmpf
from cmpf.config import get_cfg
from cmpf.data import get_vocabulary
from cmpf.data.datasets.catalog import locate_dataset
from cmpf.encoders.sam_proposals import Proposals
from cmpf.errors import ConfigError
from cmpf.factory.evaluation import build_views, inference_over
from cmpf.inference import (
    InferenceSettings,
    MaskRows,
    instance_inference,
    resize,
    restore_size,
    semantic_inference,
    semantic_labels,
)
from cmpf.inference.pipeline import image_results
from cmpf.inference.semantic import SemanticScores, Views, augmented_semantic
from cmpf.inference.settings import ImageGeometry, SAMEvidence, semantic_sum_size
from cmpf.model import CMPF
from cmpf.types import ModelResult, Sample

BIG = 30.0


def probs(*rows: list[float]) -> torch.Tensor:
    return torch.log(torch.tensor(rows))


def test_the_best_pairs_of_query_and_class_come_with_tight_boxes_and_scores():
    masks = torch.full((2, 4, 6), -BIG)
    masks[0, 1:3, 2:5] = BIG
    masks[1, 0, 0] = 1.0  # sigmoid(1) = 0.7311
    result = instance_inference(probs([0.6, 0.3, 0.1], [0.1, 0.8, 0.1]), masks, topk=3)
    # Pairs: (1, 1) 0.8 * 0.7311 = 0.5848; (0, 0) 0.6 * 1; (0, 1) 0.3 * 1. Best first: 0.6, 0.5848, 0.3.
    assert result.scores.tolist() == pytest.approx([0.6, 0.5848, 0.3], abs=1e-3)
    assert result.pred_classes.tolist() == [0, 1, 1]
    assert result.pred_boxes.tolist() == [[2, 1, 5, 3], [0, 0, 1, 1], [2, 1, 5, 3]]
    assert result.pred_masks.dtype == torch.bool
    assert result.pred_masks.sum(dim=(1, 2)).tolist() == [6, 1, 6]


def test_things_are_picked_from_the_best_pairs_and_not_the_best_pairs_from_things():
    masks = torch.full((2, 4, 4), BIG)
    is_thing = torch.tensor([False, True])
    mask_cls = probs([0.8, 0.1, 0.1], [0.6, 0.2, 0.2])
    assert len(instance_inference(mask_cls, masks, topk=2, is_thing=is_thing)) == 0
    result = instance_inference(mask_cls, masks, topk=3, is_thing=is_thing)
    assert result.pred_classes.tolist() == [1]
    assert result.scores.tolist() == pytest.approx([0.2], abs=1e-4)


def test_fewer_pairs_than_asked_for_all_come():
    assert len(instance_inference(torch.randn(2, 4).log_softmax(-1), torch.randn(2, 4, 4), topk=100)) == 6


def test_a_logit_of_zero_is_outside():
    result = instance_inference(probs([0.6, 0.4]), torch.tensor([[[1.0, 0.0, -1.0]]]), topk=1)
    assert result.pred_masks.tolist() == [[[True, False, False]]]
    assert result.scores.tolist() == pytest.approx([0.6 * 0.7311], abs=1e-4)


def test_an_empty_mask_scores_zero_and_has_an_empty_box():
    result = instance_inference(probs([0.9, 0.1]), torch.full((1, 4, 4), -BIG), topk=5)
    assert result.scores.tolist() == [0.0]
    assert result.pred_boxes.tolist() == [[0.0, 0.0, 0.0, 0.0]]


def test_without_queries_the_result_is_empty_but_well_formed():
    result = instance_inference(torch.zeros(0, 4), torch.zeros(0, 5, 6), topk=10)
    assert len(result) == 0
    assert result.pred_masks.shape == (0, 5, 6)
    assert result.pred_boxes.shape == (0, 4)


def test_random_images_agree_with_a_loop_over_pairs():
    torch.manual_seed(0)
    mask_cls, masks = torch.randn(7, 5).log_softmax(-1), torch.randn(7, 9, 11)
    wanted = []
    for q in range(7):
        inside = masks[q] > 0
        quality = masks[q].sigmoid()[inside].mean()
        wanted += [(float(mask_cls[q].softmax(0)[k]), float(quality), q, k) for k in range(4)]
    best = sorted(wanted, reverse=True)[:10]
    result = instance_inference(mask_cls, masks, topk=10)
    expected = sorted(((score * quality, q, k) for score, quality, q, k in best), reverse=True)
    assert result.scores.tolist() == pytest.approx([score for score, _, _ in expected], rel=1e-4)
    assert result.pred_classes.tolist() == [k for _, _, k in expected]
    for mask, (_, q, _) in zip(result.pred_masks, expected, strict=True):
        assert torch.equal(mask, masks[q] > 0)


def test_masks_made_in_tiles_give_the_instances_of_whole_masks(monkeypatch):
    torch.manual_seed(1)
    mask_cls, masks = torch.randn(7, 5).log_softmax(-1), torch.randn(7, 8, 10) * 3
    sizes = {"padded": (32, 40), "unpadded": (30, 37), "output": (45, 60)}
    whole = instance_inference(mask_cls, restore_size(masks[None], **sizes)[0], topk=12)
    for floats in (1, 7 * 60 * 10, 10**9):
        monkeypatch.setattr(resize, "CPU_FLOATS", floats)
        result = instance_inference(mask_cls, MaskRows(masks, **sizes), topk=12)
        assert torch.equal(result.pred_classes, whole.pred_classes)
        assert (
            result.pred_masks != whole.pred_masks
        ).float().mean() < 1e-3  # cells at the border, by rounding
        torch.testing.assert_close(result.scores, whole.scores, atol=1e-4, rtol=0)


def test_where_memory_runs_out_once_the_result_is_the_same(run_out_of_memory, caplog):
    torch.manual_seed(2)
    mask_cls, masks = torch.randn(7, 5).log_softmax(-1), torch.randn(7, 9, 11)
    wanted = instance_inference(mask_cls, masks, topk=10)
    calls = run_out_of_memory()
    result = instance_inference(mask_cls, masks, topk=10)
    assert calls == [range(0, 9), range(0, 4), range(4, 8), range(8, 9)]
    assert caplog.messages == ["out of memory with 9 rows of an image at once; retrying with 4"]
    assert torch.equal(result.pred_masks, wanted.pred_masks)
    torch.testing.assert_close(result.scores, wanted.scores)


def plain_sums(
    weights: Tensor,
    masks: Tensor,
    *,
    padded: tuple[int, int],
    unpadded: tuple[int, int],
    output: tuple[int, int],
    resize_before: bool,
) -> Tensor:
    """The formula at full size."""
    size = output if resize_before else unpadded
    maps = restore_size(masks[None], padded=padded, unpadded=unpadded, output=size)[0].sigmoid()
    scores = torch.stack([(weights[:, k, None, None] * maps).sum(0) for k in range(weights.shape[1])])
    return F.interpolate(scores[None], size=output, mode="bilinear")[0]


def rows_at_sum(
    masks: Tensor,
    *,
    padded: tuple[int, int],
    unpadded: tuple[int, int],
    output: tuple[int, int],
    resize_before: bool,
) -> MaskRows:
    size = output if resize_before else unpadded
    return MaskRows(masks, padded=padded, unpadded=unpadded, output=size)


def test_scores_are_the_sum_of_class_probability_times_mask():
    # Two masks, two classes and void; the softmax of these logarithms is the numbers themselves.
    mask_cls = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]))
    mask_pred = torch.tensor([[[BIG, -BIG]], [[BIG, 0.0]]])
    scores = semantic_inference(mask_cls, mask_pred)
    # Pixel 0: both masks; pixel 1: half of mask 1.
    torch.testing.assert_close(scores, torch.tensor([[[0.8, 0.05]], [[0.5, 0.15]]]))


def test_a_query_that_is_all_void_adds_nothing():
    mask_cls = torch.log(torch.tensor([[1e-8, 1e-8, 1.0]]))
    assert semantic_inference(mask_cls, torch.full((1, 2, 2), BIG)).max() < 1e-6


@pytest.mark.parametrize("resize_before", [True, False])
@pytest.mark.parametrize("output", [(120, 150), (50, 61), (200, 301), (1, 1), (120, 40)])
def test_labels_are_the_best_scores_of_the_full_formula(output, resize_before, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(20, 12, generator=generator).softmax(-1)
    masks = torch.randn(20, 32, 40, generator=generator) * 4
    sizes = {"padded": (128, 160), "unpadded": (120, 150), "output": output, "resize_before": resize_before}
    scores = plain_sums(weights, masks, **sizes)
    for floats in (1, 100_000, 10**9):  # one row at a time, several tiles, one tile
        monkeypatch.setattr(resize, "CPU_FLOATS", floats)
        labels = semantic_labels(weights, rows_at_sum(masks, **sizes), output=output)
        assert labels.shape == output
        assert labels.dtype == torch.int32
        # Where two classes are equal to rounding either may win.
        best, second = scores.topk(2, dim=0).values
        sure = best - second > 1e-4
        assert torch.equal(labels[sure], scores.argmax(0)[sure])
        assert sure.float().mean() > 0.98 or sure.numel() == 1


def test_a_hand_drawn_image_gets_the_label_of_its_mask():
    masks = torch.full((2, 4, 4), -BIG)
    masks[0, :, :2] = BIG
    masks[1, :, 2:] = BIG
    weights = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.2, 0.8]])
    labels = semantic_labels(weights, MaskRows.of(masks), output=(4, 4))
    assert labels.tolist() == [[0, 0, 2, 2]] * 4


class LargestTensors(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned, in elements."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.untyped_storage().nbytes() // value.element_size())
        return result


@pytest.mark.parametrize("resize_before", [True, False])
def test_no_tensor_grows_with_the_image(resize_before, monkeypatch):
    # 847 classes and 100 queries at 256 x 320: scores alone would be 69 M floats, a tile has 2 M.
    monkeypatch.setattr(resize, "CPU_FLOATS", 2_000_000)
    weights, masks = torch.rand(100, 847), torch.randn(100, 16, 20)
    with LargestTensors() as mode:
        sizes = {"padded": (64, 80), "unpadded": (64, 80), "output": (256, 320)}
        semantic_labels(
            weights, rows_at_sum(masks, **sizes, resize_before=resize_before), output=sizes["output"]
        )
    assert mode.largest <= 2_500_000


@pytest.mark.parametrize("floats", [resize.CPU_FLOATS, resize.GPU_FLOATS])
def test_a_tile_of_847_classes_at_1280_x_1024_leaves_room_under_one_gigabyte(floats):
    # At most four tensors of a tile live at once: the sums, two rows gathered for each, and the result.
    rows = max(1, math.floor(floats / ((250 + 847) * 1280)))
    labels = 1024 * 1280 * 8
    assert 4 * rows * (250 + 847) * 1280 * 4 + labels < 1e9


SETTINGS = InferenceSettings(
    alpha=0.4,
    beta=0.8,
    ensemble_on_valid_mask=False,
    clip_objectness=0.0,
    semantic=True,
    panoptic=False,
    instance=False,
    semantic_output="labels",
    object_mask_threshold=0.0,
    overlap_threshold=0.8,
    resize_before=False,
    detections_per_image=10,
    min_island_share=0.0,
    mask_ensemble=None,
    proposals=False,
)
GEOMETRY = ImageGeometry(padded=(32, 64), unpadded=(30, 50), output=(60, 100))
K, Q = 3, 5


@pytest.fixture
def predictions() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask_cls = torch.randn(Q, K + 1, generator=generator).log_softmax(-1)
    return mask_cls, 4 * torch.randn(Q, 8, 16, generator=generator)


def results(predictions, settings: InferenceSettings, sam: SAMEvidence | None = None, geometry=GEOMETRY):
    return image_results(
        *predictions,
        geometry=geometry,
        is_thing=torch.tensor([True, False, True]),
        seen=torch.tensor([True, True, False]),
        settings=settings,
        sam=sam,
    )


def plain_scores(predictions, size, *, geometry=GEOMETRY) -> torch.Tensor:
    """Mask2Former's formula, written out: upsample, cut the padding, weigh, sum, resize."""
    mask_cls, mask_pred = predictions
    masks = F.interpolate(mask_pred[None], geometry.padded, mode="bilinear", align_corners=False)
    masks = masks[..., : geometry.unpadded[0], : geometry.unpadded[1]]
    if size != geometry.unpadded:
        masks = F.interpolate(masks, size, mode="bilinear", align_corners=False)
    probabilities = mask_cls.softmax(-1)
    scores = torch.zeros(K, *size)
    for q in range(Q):
        for k in range(K):
            scores[k] += probabilities[q, k] * masks[0, q].sigmoid()
    if size != geometry.output:
        scores = F.interpolate(scores[None], geometry.output, mode="bilinear", align_corners=False)[0]
    return scores


@pytest.mark.parametrize("resize_before", [False, True])
def test_scores_follow_the_formula_at_either_place_of_the_resize(predictions, resize_before: bool) -> None:
    settings = replace(SETTINGS, semantic_output="scores", resize_before=resize_before)
    size = GEOMETRY.output if resize_before else GEOMETRY.unpadded
    scores = results(predictions, settings)["sem_seg"]
    torch.testing.assert_close(scores, plain_scores(predictions, size))


def test_panoptic_or_instance_output_moves_the_resize_before_the_sum() -> None:
    assert semantic_sum_size(GEOMETRY, SETTINGS) == GEOMETRY.unpadded
    assert semantic_sum_size(GEOMETRY, replace(SETTINGS, panoptic=True)) == GEOMETRY.output
    assert semantic_sum_size(GEOMETRY, replace(SETTINGS, instance=True)) == GEOMETRY.output


def test_only_the_tasks_that_are_on_are_computed(predictions) -> None:
    assert set(results(predictions, SETTINGS)) == {"sem_seg"}
    on = replace(SETTINGS, semantic=False, panoptic=True, instance=True, proposals=True)
    found = results(predictions, on)
    assert set(found) == {"panoptic_seg", "instances", "proposals"}
    assert found["panoptic_seg"][0].shape == GEOMETRY.output
    assert found["proposals"].shape == (Q, *GEOMETRY.output)
    assert found["proposals"].dtype == torch.bool


def test_in_panoptic_mode_only_things_are_instances(predictions) -> None:
    both = results(predictions, replace(SETTINGS, panoptic=True, instance=True))["instances"]
    alone = results(predictions, replace(SETTINGS, instance=True))["instances"]
    assert 1 not in both.pred_classes
    assert 1 in alone.pred_classes


def sam_evidence(probability: float) -> SAMEvidence:
    """One SAM mask over the left half of the image, which CLIP calls class 2 with the given probability."""
    masks = torch.full((1, *GEOMETRY.unpadded), -6.0)
    masks[:, :, :25] = 6.0
    rest = (1 - probability) / 2
    proposals = Proposals(masks, GEOMETRY.unpadded, GEOMETRY.unpadded)
    return SAMEvidence(proposals=proposals, class_probs=torch.tensor([[rest, rest, probability, 0.0]]))


def test_sam_masks_add_to_unseen_classes_only(predictions) -> None:
    ensemble = mask_ensemble()
    settings = replace(SETTINGS, semantic_output="scores", resize_before=False, mask_ensemble=ensemble)
    geometry = replace(GEOMETRY, output=GEOMETRY.unpadded)
    sam = sam_evidence(0.9)
    scores = results(predictions, settings, sam, geometry)["sem_seg"]
    plain = plain_scores(predictions, geometry.unpadded, geometry=geometry)
    torch.testing.assert_close(scores[:2], plain[:2])
    # unseen class 2: (1 - 0.2) * plain + 0.2 * 0.9 * sigmoid(mask)
    torch.testing.assert_close(scores[2], 0.8 * plain[2] + 0.2 * 0.9 * sam.proposals.logits[0].sigmoid())


NO_MASKS = SAMEvidence(Proposals(torch.zeros(0, 30, 50), (30, 50), (30, 50)), torch.zeros(0, K + 1))


@pytest.mark.parametrize("sam", [NO_MASKS, None, sam_evidence(0.4)])
def test_without_a_sure_sam_mask_unseen_classes_keep_their_share_of_the_plain_scores(
    predictions, sam: SAMEvidence | None
) -> None:
    ensemble = mask_ensemble()
    settings = replace(SETTINGS, semantic_output="scores", mask_ensemble=ensemble)
    geometry = replace(GEOMETRY, output=GEOMETRY.unpadded)
    scores = results(predictions, settings, sam, geometry)["sem_seg"]
    share = torch.ones(K, 1, 1)
    share[2] = 0.8 if sam is not None and len(sam.proposals) else 1.0  # 1 - alpha, for the unseen class
    plain = plain_scores(predictions, geometry.unpadded, geometry=geometry)
    torch.testing.assert_close(scores, share * plain)


def test_sam_masks_are_proposals_too(predictions) -> None:
    ensemble = mask_ensemble()
    settings = replace(SETTINGS, proposals=True, mask_ensemble=ensemble)
    proposals = results(predictions, settings, sam_evidence(0.1))["proposals"]
    assert proposals.shape == (Q + 1, *GEOMETRY.output)
    assert proposals[-1, :, :48].all()
    assert not proposals[-1, :, 52:].any()


CANDIDATES = mask_ensemble(tasks=frozenset({"panoptic", "instance"}))


def halves() -> tuple[Tensor, Tensor]:
    """One decoder mask, over the right half of the image, surely of the seen class 0; GEOMETRY without padding."""
    mask_pred = torch.full((1, 8, 16), -BIG)
    mask_pred[:, :, 7:] = BIG
    return torch.tensor([[0.97, 0.01, 0.01, 0.01]]).log(), mask_pred


def test_a_sam_mask_of_an_unseen_class_becomes_a_segment_and_an_instance() -> None:
    settings = replace(SETTINGS, semantic=False, panoptic=True, instance=True, mask_ensemble=CANDIDATES)
    found = results(halves(), settings, sam_evidence(0.9))
    ids, segments = found["panoptic_seg"]
    assert [(s["category_id"], s["source"]) for s in segments] == [(0, "decoder"), (2, "sam")]
    assert segments[1]["score"] == pytest.approx(0.9, abs=1e-4)
    assert (ids[:, 5] == 2).all()
    assert (ids[:, 90] == 1).all()
    instances = found["instances"]
    best = [
        (int(c), bool(of_sam)) for c, of_sam in zip(instances.pred_classes, instances.of_sam, strict=True)
    ]
    assert best[:2] == [(0, False), (2, True)]
    assert float(instances.scores[1]) == pytest.approx(0.9, abs=0.01)  # its sigmoid is 0.9975 inside


@pytest.mark.parametrize(
    ("tasks", "of_sam"),
    [({"semantic"}, (False, False)), ({"panoptic"}, (True, False)), ({"instance"}, (False, True))],
)
def test_candidates_enter_only_the_results_that_they_are_configured_for(
    tasks: set[str], of_sam: tuple[bool, bool]
) -> None:
    ensemble = replace(CANDIDATES, tasks=frozenset(tasks))
    settings = replace(SETTINGS, panoptic=True, instance=True, mask_ensemble=ensemble)
    found = results(halves(), settings, sam_evidence(0.9))
    panoptic = any(segment["source"] == "sam" for segment in found["panoptic_seg"][1])
    assert (panoptic, bool(found["instances"].of_sam.any())) == of_sam


def test_the_overlap_threshold_of_candidates_is_their_own() -> None:
    # The decoder's mask of class 0 covers everything, SAM's surer one its left half: 50 of 100 columns are left.
    mask_cls, mask_pred = torch.tensor([[0.8, 0.1, 0.05, 0.05]]).log(), torch.full((1, 8, 16), BIG)
    settings = replace(SETTINGS, semantic=False, panoptic=True)
    for overlap_threshold, names in ((0.4, [0, 2]), (0.6, [2])):
        ensemble = replace(CANDIDATES, overlap_threshold=overlap_threshold)
        found = results((mask_cls, mask_pred), replace(settings, mask_ensemble=ensemble), sam_evidence(0.95))
        assert [s["category_id"] for s in found["panoptic_seg"][1]] == names


def test_islands_leave_a_mask_before_its_box_is_made() -> None:
    mask_cls, mask_pred = halves()
    mask_pred[0, 1, 1] = BIG  # one cell, of 8 * 9 = 72 of the right part
    settings = replace(SETTINGS, semantic=False, instance=True)
    boxes = [
        results((mask_cls, mask_pred), replace(settings, min_island_share=share))["instances"].pred_boxes[0]
        for share in (0.0, 0.01, 0.1)
    ]
    assert boxes[0][0] < 10
    assert torch.equal(boxes[0], boxes[1])
    assert boxes[2][0] > 40


def test_sam_is_asked_only_where_a_result_reads_its_masks() -> None:
    on = replace(SETTINGS, mask_ensemble=replace(CANDIDATES, tasks=frozenset({"panoptic"})))
    assert not on.reads_sam_masks  # semantic only
    assert replace(on, panoptic=True).reads_sam_masks
    assert replace(on, proposals=True).reads_sam_masks
    assert not replace(on, panoptic=True, mask_ensemble=None).reads_sam_masks


def test_scores_by_the_mean_logit_exceed_one() -> None:
    # Inside, the logits 2 and 4: mean 3, times the class probability 0.5; sigmoid would give 0.93.
    masks = torch.tensor([[[2.0, 4.0], [-1.0, -7.0]]])
    result = instance_inference(probs([0.5, 0.5]), masks, topk=1, mask_score="logit")
    assert result.scores.tolist() == pytest.approx([1.5], rel=1e-5)
    empty = instance_inference(probs([0.5, 0.5]), -masks.abs(), topk=1, mask_score="logit")
    assert empty.scores.tolist() == [0.0]


# Test-time augmentation of the real tiny model against a loop of a few lines.
SEMANTIC = ("MODEL.MASK_FORMER.TEST.PANOPTIC_ON", False, "MODEL.MASK_FORMER.TEST.INSTANCE_ON", False,
            "MODEL.MASK_FORMER.TEST.MASK_RECALL", False)  # fmt: skip
AUG = ("TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (64, 100), "TEST.AUG.MAX_SIZE", 120)
# Image (H, W) and the sizes of its views: shorter side 64 or 100, the longer one at most 120.
SIZES = {(48, 72): [(64, 96), (80, 120)], (90, 60): [(96, 64), (120, 80)]}


@pytest.fixture(scope="module")
def model() -> CMPF:
    scores = ("MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT", "scores")
    return cmpf.load(
        "cmpf_tiny", device="cpu", overrides=[*SEMANTIC, *scores, "TEST.ENSEMBLE.ENABLED", False]
    ).model


def naive(model: CMPF, image: torch.Tensor, *, flips: tuple[bool, ...]) -> torch.Tensor:
    pixels = Image.fromarray(image.permute(1, 2, 0).numpy())
    found = []
    for height, width in SIZES[tuple(image.shape[-2:])]:
        for flip in flips:
            view = np.array(pixels.resize((width, height), Image.Resampling.BILINEAR))
            view = np.fliplr(view) if flip else view
            sample = {"image": torch.from_numpy(view.transpose(2, 0, 1).copy()), "height": 50, "width": 70}
            (result,) = model.infer([sample], get_vocabulary("shapes_val"))
            found.append(np.flip(result["sem_seg"].numpy(), axis=-1) if flip else result["sem_seg"].numpy())
    return torch.from_numpy(np.mean(found, axis=0))


@pytest.mark.parametrize("flip", [True, False])
def test_results_are_the_mean_of_a_naive_loop_over_sizes_and_mirror_images(model: CMPF, flip: bool) -> None:
    cfg = get_cfg("cmpf_tiny", [*SEMANTIC, *AUG, "TEST.AUG.FLIP", flip])
    look = inference_over(model, locate_dataset("shapes_val"), build_views(cfg))
    for size in SIZES:
        images = [random_image(*size, seed=seed) for seed in (0, 1)]
        results = look([{"image": image, "height": 50, "width": 70} for image in images])
        for image, result in zip(images, results, strict=True):
            expected = naive(model, image, flips=(False, True) if flip else (False,))
            torch.testing.assert_close(result["sem_seg"], expected, rtol=0, atol=1e-4)
            assert result.keys() == {"sem_seg"}


def test_views_are_turned_back_averaged_and_carry_the_masks_of_their_image() -> None:
    asked: list[tuple[Sample, InferenceSettings]] = []

    def infer(batch: list[Sample], settings: InferenceSettings) -> list[ModelResult]:
        asked.extend((sample, settings) for sample in batch)
        red = [sample["image"][0] + torch.arange(4.0) for sample in batch]
        return [{"sem_seg": torch.stack([scores, 8 - scores])} for scores in red]

    image, sam_masks = torch.arange(24, dtype=torch.uint8).view(3, 2, 4), torch.arange(8.0).view(1, 2, 4)
    views = Views(short_sides=(2,), max_side=4, flip=True)
    # Columns add 0..3, in the mirrored view 3..0: the mean of class 0 is red + 1.5, red being 0..3 and 4..7; class 1
    # has 8 - 1.5 - red, which is more up to red = 2.
    scores = torch.arange(8.0).view(2, 4) + 1.5
    wanted = {"scores": torch.stack([scores, 8 - scores]), "labels": torch.tensor([[1, 1, 1, 0], [0] * 4])}
    everything = replace(SETTINGS, panoptic=True, instance=True, proposals=True)
    for output, expected in wanted.items():
        settings = replace(everything, semantic=False, semantic_output=output)
        batch: list[Sample] = [{"image": image, "sam_masks": sam_masks}, {"image": image, "height": 9}]
        results = augmented_semantic(infer, batch, views=views, settings=settings)
        assert all(torch.equal(result["sem_seg"], expected) for result in results)
    (plain, scores_only), (without, _), (mirrored, _), _ = asked[:4]
    assert torch.equal(plain["sam_masks"], sam_masks)
    assert torch.equal(mirrored["sam_masks"], sam_masks.flip(-1))
    assert torch.equal(mirrored["image"], image.flip(-1))
    assert "sam_masks" not in without
    assert [(view["height"], view["width"]) for view in (plain, without)] == [(2, 4), (9, 4)]
    assert scores_only == replace(SETTINGS, semantic=True, semantic_output="scores")


def test_memory_of_a_row_of_scores_counts_masks_sums_and_the_rows_that_it_is_made_of() -> None:
    # Sums of 4 x 6 pixels from masks whose row of 16 padded pixels is made of 16 / 4 rows: 64 floats. A row of scores
    # of 2 x 3 pixels comes from two rows of sums: 2 * (3 masks * 64 + 2 classes * 6).
    masks = MaskRows(torch.zeros(3, 4, 4), padded=(16, 16), unpadded=(16, 16), output=(4, 6))
    assert masks.floats_per_row == 64
    assert SemanticScores(torch.zeros(3, 2), masks, (2, 3)).floats_per_row == 2 * (3 * 64 + 2 * 6)


def test_without_it_an_image_is_looked_at_as_it_is(model: CMPF) -> None:
    assert build_views(get_cfg("cmpf_tiny")) is None
    batch = [{"image": random_image(64, 96)}]
    words = locate_dataset("shapes_val")
    (result,) = inference_over(model, words, None)(batch)
    assert torch.equal(result["sem_seg"], model.infer(batch, words.vocabulary)[0]["sem_seg"])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), r"set MODEL\.MASK_FORMER\.TEST\.PANOPTIC_ON False, .*INSTANCE_ON False, .*MASK_RECALL False"),
        ((*SEMANTIC, "MODEL.MASK_FORMER.TEST.INSTANCE_ON", True), r"averaged; set \S*INSTANCE_ON False$"),
        (
            (*SEMANTIC, "TEST.ENSEMBLE.SOURCE", "cache", "TEST.ENSEMBLE.CACHE_DIR", "x"),
            r"set TEST\.ENSEMBLE\.SOURCE onl",
        ),
    ],
)
def test_what_cannot_be_averaged_is_refused_by_name(overrides: tuple[object, ...], expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"TEST\.AUG\.ENABLED.*{expected}"):
        get_cfg("cmpf_tiny", [*overrides, *AUG])
