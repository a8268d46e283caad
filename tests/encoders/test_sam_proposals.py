# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""SAM's masks of a whole image, and the removal of small regions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.encoders import fill, random_images, small_sam
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.encoders.sam import SAMEncoder, build_sam
from cmpf.encoders.sam_decoder import SharedMaskDecoder
from cmpf.encoders.sam_proposals import Proposals, SAMProposer, point_grid
from cmpf.encoders.tiny import build_tiny_sam, load_tiny_sam
from cmpf.inference.mask_proposals import at_size
from cmpf.shapeworld.scene import generate_scene

SIDE = 64  # of the fake SAM's input; its low-resolution masks are 16 x 16, one cell 4 x 4 pixels


def options(**changes: Any) -> dict[str, Any]:
    return {
        "points_per_side": 4,
        "coarse_points_per_side": 0,
        "iou_threshold": 0.8,
        "stability_threshold": 0.7,
        "nms_threshold": 0.7,
        "min_area": 0,
        "max_masks": 50,
        **changes,
    }


class FakeSAM(nn.Module):
    """Answers each point with three masks that a function of its number draws: logits (3, 16, 16), IoU.

    The prompt encoder passes points through, for the mask decoder to count.
    """

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer
        self.calls: list[int] = []
        self.points: list[Tensor] = []
        self.image_encoder = nn.Module()
        self.image_encoder.img_size = SIDE  # type: ignore[assignment]

    @property
    def prompt_encoder(self) -> Any:
        sam = self

        class PromptEncoder:
            embed_dim = 8

            def __call__(
                self, *, points: tuple[Tensor, Tensor], boxes: None, masks: None
            ) -> tuple[Tensor, Tensor]:
                sam.points.append(points[0][:, 0])
                assert points[1].eq(1).all()
                return points[0], points[0]

            def get_dense_pe(self) -> Tensor:
                return torch.zeros(1)

        return PromptEncoder()

    def mask_decoder(self, *, sparse_prompt_embeddings: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        first = sum(self.calls)
        self.calls.append(len(sparse_prompt_embeddings))
        answers = [self.answer(first + index) for index in range(len(sparse_prompt_embeddings))]
        return torch.stack([a for a, _ in answers]), torch.tensor([b for _, b in answers])


def propose(answer: Any, *, size: tuple[int, int] = (SIDE, SIDE), **changes: Any) -> Tensor:
    proposer = SAMProposer(encoder=SAMEncoder(name="fake", sam=FakeSAM(answer)), **options(**changes))
    return at_size(proposer(torch.zeros(1, 8, 4, 4), padded=size, unpadded=size), size)


def block(y0: int, x0: int, y1: int, x1: int, *, amount: float = 20.0) -> Tensor:
    """Logits of a rectangle of cells."""
    logits = torch.full((16, 16), -amount)
    logits[y0:y1, x0:x1] = amount
    return logits


def only_first(*masks: tuple[Tensor, float]) -> Any:
    """The first point finds up to three masks, all others nothing good."""
    nothing = (block(0, 0, 1, 1), 0.0)

    def answer(number: int) -> tuple[Tensor, list[float]]:
        three = (list(masks) + [nothing] * 3)[:3] if number == 0 else [nothing] * 3
        return torch.stack([logits for logits, _ in three]), [quality for _, quality in three]

    return answer


def test_one_point_gives_the_logits_of_segment_anythings_predictor() -> None:
    from segment_anything import SamPredictor

    image = (random_images(256, 256, 3).abs() * 60).clamp(max=255).to(torch.uint8)
    predictor = SamPredictor(fill(build_tiny_sam()).eval())
    predictor.set_image(image.numpy())
    expected, quality, low = predictor.predict(
        point_coords=np.array([[100.0, 37.0]]), point_labels=np.array([1]), return_logits=True
    )
    proposer = SAMProposer(encoder=small_sam(), **options())
    found, found_quality = proposer.masks_at(predictor.get_image_embedding(), torch.tensor([[100.0, 37.0]]))
    torch.testing.assert_close(found[0].numpy(), low, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found_quality[0].numpy(), quality, atol=1e-5, rtol=1e-5)
    large = at_size(Proposals(found[0], (256, 256), (256, 256)), (256, 256))
    torch.testing.assert_close(large.numpy(), expected, atol=1e-5, rtol=1e-5)


def test_a_proposer_leaves_the_sam_that_it_is_given_as_it_is() -> None:
    encoder = small_sam()
    before = dict(encoder.named_modules())
    SAMProposer(encoder=encoder, **options())
    assert dict(encoder.named_modules()) == before


def test_a_square_image_gives_nearly_the_masks_of_segment_anythings_generator() -> None:
    """Theirs filters at the size of the image, ours at that of SAM's masks, so that one at a threshold may differ."""
    from segment_anything import SamAutomaticMaskGenerator

    encoder = build_sam(name="cmpf_tiny", checkpoint="")  # trained: its masks are smooth
    image = generate_scene(3, size=256, seen_only=False, hard=False).image
    thresholds = {"points_per_side": 8, "stability_threshold": 0.6, "iou_threshold": 0.6}
    normalized = (torch.from_numpy(image).permute(2, 0, 1) - encoder.sam.pixel_mean) / encoder.sam.pixel_std
    proposer = SAMProposer(encoder=encoder, **options(**thresholds, max_masks=9999))
    found = at_size(proposer(encoder(normalized[None]), padded=(256, 256), unpadded=(256, 256)), (256, 256))
    generator = SamAutomaticMaskGenerator(
        encoder.sam, points_per_side=8, pred_iou_thresh=0.6, stability_score_thresh=0.6, box_nms_thresh=0.7
    )
    theirs = torch.stack([torch.from_numpy(r["segmentation"]) for r in generator.generate(image)]).flatten(1)
    ours = (found > 0).flatten(1)
    common = ours.float() @ theirs.float().T
    overlap = common / (ours.sum(1)[:, None] + theirs.sum(1) - common)
    assert min(overlap.shape) >= 4
    assert (overlap.amax(0) > 0.95).float().mean() >= 0.75
    assert (overlap.amax(1) > 0.95).float().mean() >= 0.75


def test_the_point_grid_covers_the_image_without_its_padding() -> None:
    # 48 x 96 pixels inside 64 x 128: SAM's square shows them at 48 x 48 of its 64 x 64.
    grid = point_grid(2, 64, (64, 128), (48, 96))
    assert grid.tolist() == [[12.0, 12.0], [36.0, 12.0], [12.0, 36.0], [36.0, 36.0]]
    # Twice as many points across: steps of 12.
    assert point_grid(4, 64, (64, 128), (48, 96))[:, 0].unique().tolist() == [6.0, 18.0, 30.0, 42.0]


def test_points_are_asked_in_batches_and_their_number_changes_nothing() -> None:
    def answer(number: int) -> tuple[Tensor, list[float]]:
        y, x = 4 * (number // 4), 4 * (number % 4)
        return block(y, x, y + 3, x + 3).expand(3, -1, -1), [0.9, 0.1, 0.85]

    results = []
    for points_per_batch, calls in ((64, [16]), (16, [16]), (5, [5, 5, 5, 1])):
        sam = FakeSAM(answer)
        proposer = SAMProposer(
            encoder=SAMEncoder(name="fake", sam=sam), **options(points_per_batch=points_per_batch)
        )
        results.append(proposer(torch.zeros(1, 8, 4, 4), padded=(64, 64), unpadded=(64, 64)).logits)
        assert sam.calls == calls
        torch.testing.assert_close(torch.cat(sam.points), point_grid(4, 64, (64, 64), (64, 64)))
    assert results[0].shape == (16, 16, 16)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_masks_of_low_predicted_iou_go_and_the_threshold_itself_stays() -> None:
    answer = only_first((block(0, 0, 8, 8), 0.875), (block(8, 8, 16, 16), 0.8749))
    found = propose(answer, iou_threshold=0.875)
    assert found.shape == (1, SIDE, SIDE)
    assert found[0, 8, 8] > 0


def test_unstable_masks_go() -> None:
    # 8 x 8 cells of 2, two cells of -0.5 around them, -20 outside: cut at 1 and at -1 (8 / 12) ** 2 = 0.44, cut at 0.1
    # and at -0.1 the same cells.
    unstable = block(2, 2, 14, 14)
    unstable = torch.where(unstable > 0, torch.tensor(-0.5), unstable)
    unstable[4:12, 4:12] = 2.0
    answer = only_first((unstable, 0.9))
    assert len(propose(answer, stability_threshold=0.6)) == 0
    assert len(propose(answer, stability_threshold=0.4)) == 1
    assert len(propose(answer, stability_threshold=0.9, stability_offset=0.1)) == 1


def test_of_two_masks_with_nearly_the_same_box_the_one_of_higher_predicted_iou_stays() -> None:
    # Boxes of 8 x 8 and 8 x 9 cells: IoU about 64 / 72 = 0.89. The third shares half of it.
    answer = only_first((block(0, 0, 8, 8), 0.9), (block(0, 0, 8, 9), 0.95), (block(0, 0, 8, 4), 0.85))
    found = propose(answer)
    assert (found[:, 10, 34] > 0).tolist() == [True, False]  # column 34 is in the ninth cell
    assert len(propose(answer, nms_threshold=0.95)) == 3


def test_small_islands_turn_outside_and_small_holes_inside() -> None:
    logits = block(2, 2, 10, 10)
    logits[5, 5] = -20.0  # a hole of one cell, 16 pixels
    logits[13, 13] = 20.0  # an island of one cell
    whole = propose(only_first((logits, 0.9)))
    clean = propose(only_first((logits, 0.9)), min_area=100)
    assert whole[0, 22, 22] < 0 < whole[0, 54, 54]
    assert clean[0, 22, 22] > 0 > clean[0, 54, 54]
    assert torch.equal(clean, propose(only_first((block(2, 2, 10, 10), 0.9))))
    assert torch.equal(propose(only_first((logits, 0.9)), min_area=16), whole)


def test_masks_that_become_duplicates_by_cleaning_go_and_sams_own_stays() -> None:
    plain = block(2, 2, 10, 10, amount=10.0)
    with_island = block(2, 2, 10, 10)
    with_island[14, 14] = 20.0  # its box reaches to cell 15: 8 * 8 / (13 * 13) = 0.38 of overlap
    answer = only_first((with_island, 0.95), (plain, 0.9))
    assert len(propose(answer)) == 2
    found = propose(answer, min_area=100)
    assert len(found) == 1
    assert float(found.max()) == pytest.approx(10.0)


def test_the_largest_masks_are_kept_largest_first() -> None:
    answer = only_first((block(0, 0, 2, 2), 0.9), (block(4, 4, 12, 12), 0.85), (block(0, 8, 4, 12), 0.95))
    areas = (propose(answer) > 0).flatten(1).sum(1).tolist()
    assert len(areas) == 3
    assert areas == sorted(areas, reverse=True)
    kept = propose(answer, max_masks=2)
    assert (kept > 0).flatten(1).sum(1).tolist() == areas[:2]


def test_no_mask_is_an_empty_result_of_the_right_size() -> None:
    found = propose(only_first(), size=(32, 96))
    assert found.shape == (0, 32, 96)
    empty = (torch.full((16, 16), -0.5), 0.9)
    assert propose(only_first(empty), stability_threshold=0.0).shape == (0, SIDE, SIDE)


def test_logits_are_mapped_back_from_the_square_to_the_padded_image_and_cut() -> None:
    encoder = small_sam()
    proposer = SAMProposer(encoder=encoder, **options(iou_threshold=-99, stability_threshold=0.0))
    embedding = encoder(random_images(1, 3, 96, 160))
    found = at_size(proposer(embedding, padded=(96, 160), unpadded=(90, 150)), (90, 150))
    low, _ = proposer.masks_at(embedding, point_grid(4, 256, (96, 160), (90, 150)))
    candidates = F.interpolate(
        low.flatten(0, 1)[:, None], size=(96, 160), mode="bilinear", align_corners=False
    )[:, 0, :90, :150]
    for mask in found:
        distance = (candidates - mask).abs().flatten(1).amax(dim=1).min()
        assert float(distance) < 1e-4


@pytest.mark.parametrize("min_area", [0, 100, 2000])
def test_random_proposals_are_sorted_distinct_and_without_small_regions(min_area: int) -> None:

    encoder = small_sam()
    proposer = SAMProposer(
        encoder=encoder, **options(iou_threshold=-99, stability_threshold=0.0, min_area=min_area, max_masks=7)
    )
    proposals = proposer(encoder(random_images(1, 3, 128, 128)), padded=(128, 128), unpadded=(128, 128))
    found = proposals.logits > 0  # cells of 2 x 2 pixels
    areas = found.flatten(1).sum(1)
    assert 0 < len(found) <= 7
    assert areas.tolist() == sorted(areas.tolist(), reverse=True)
    for mask in found.numpy():
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        sizes = np.bincount(labels.ravel())[1:]
        assert count == 1 or 4 * sizes.min() >= min_area


def test_the_proposer_is_frozen_shares_its_encoder_and_ignores_autocast() -> None:
    encoder = small_sam()
    proposer = SAMProposer(encoder=encoder, **options(iou_threshold=-99, stability_threshold=0.0)).train()
    assert proposer.encoder is encoder
    assert not any(module.training for module in proposer.modules())
    embedding = encoder(random_images(1, 3, 64, 64))
    expected = proposer(embedding, padded=(64, 64), unpadded=(64, 64)).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = proposer(embedding, padded=(64, 64), unpadded=(64, 64)).logits
    assert found.dtype == torch.float32
    assert not found.requires_grad
    torch.testing.assert_close(found, expected)


def test_after_a_coarse_grid_only_points_are_asked_that_no_mask_covers() -> None:
    def answer(number: int) -> tuple[Tensor, list[float]]:
        """The first coarse point finds the left half of the image, the second and third nothing good."""
        left = block(0, 0, 16, 8) if number == 0 else block(8, 8, 16, 16)
        return left.expand(3, -1, -1), [0.9 if number in (0, 3) else 0.0, 0.0, 0.0]

    sam = FakeSAM(answer)
    proposer = SAMProposer(
        encoder=SAMEncoder(name="fake", sam=sam), **options(points_per_side=4, coarse_points_per_side=2)
    )
    found = proposer(torch.zeros(1, 8, 4, 4), padded=(64, 64), unpadded=(64, 64))
    assert len(found) == 2
    # Of the fine grid at 8, 24, 40, 56 only those of the upper right quarter are left.
    assert sam.calls == [4, 4]
    assert torch.cat(sam.points)[4:].tolist() == [[40, 8], [56, 8], [40, 24], [56, 24]]


@pytest.mark.parametrize("with_mask_prompts", [False, True])
@pytest.mark.parametrize("points", [1, 5])
def test_the_shared_mask_decoder_agrees_with_segment_anythings(points: int, with_mask_prompts: bool) -> None:
    sam: Any = load_tiny_sam()
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(1, 64, 16, 16, generator=generator)
    where = 255 * torch.rand(points, 1, 2, generator=generator), torch.ones(points, 1)
    masks = torch.randn(points, 1, 64, 64, generator=generator) if with_mask_prompts else None
    with torch.no_grad():
        sparse, dense = sam.prompt_encoder(points=where, boxes=None, masks=masks)
        prompts = {
            "image_embeddings": embedding,
            "image_pe": sam.prompt_encoder.get_dense_pe(),
            "sparse_prompt_embeddings": sparse,
            "dense_prompt_embeddings": dense,
        }
        shared = SharedMaskDecoder(sam.mask_decoder)
        for several in (True, False):
            expected = sam.mask_decoder(**prompts, multimask_output=several)
            found = shared(**prompts, multimask_output=several)
            for own, other in zip(found, expected, strict=True):
                assert own.shape == other.shape
                torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)
    assert shared.state_dict().keys() == sam.mask_decoder.state_dict().keys()


def test_points_without_a_good_mask_are_left_out_before_masks_are_made() -> None:
    proposer = SAMProposer(encoder=build_sam(name="cmpf_tiny", checkpoint=""), **options())
    embedding = torch.randn(1, 64, 16, 16, generator=torch.Generator().manual_seed(0))
    points = point_grid(6, 256, (256, 256), (256, 256))
    logits, quality = proposer.masks_at(embedding, points)
    least = float(quality.max(dim=1).values.median())
    good = (quality >= least).any(dim=1)
    assert 0 < int(good.sum()) < len(points)
    found, found_quality = proposer.masks_at(embedding, points, min_iou=least)
    torch.testing.assert_close(found, logits[good], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found_quality, quality[good])
    nothing, none = proposer.masks_at(embedding, points, min_iou=2.0)
    assert nothing.shape == (0, *logits.shape[1:])
    assert none.shape == (0, 3)
