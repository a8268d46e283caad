# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Panoptic segmentation from masks: every pixel to one query, at most (MaskFormer, Sec. 3.4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cmpf.common.tensors import in_float64
from cmpf.inference.resize import MaskRows, best_of, work_in_tiles
from cmpf.types import MaskOrigin, SegmentInfo


def panoptic_inference(
    mask_cls: Tensor,
    mask_pred: Tensor | MaskRows,
    *,
    is_thing: Tensor,
    object_mask_threshold: float,
    overlap_threshold: float,
    of_decoder: int | None = None,
) -> tuple[Tensor, list[SegmentInfo]]:
    """Gives each pixel to the kept query with the largest score * sigmoid(mask).

    Args:
        mask_cls: (Q, K + 1) log class distribution, last column void.
        mask_pred: (Q, H, W) mask logits, whole or made a tile of rows at a time; only the kept ones are read.
        is_thing: (K,) bool; segments of one stuff class merge.
        object_mask_threshold: queries whose best class is void or scores no more than this are left out.
        overlap_threshold: a query is dropped when it wins less than this share of the area of its own mask.
        of_decoder: how many of the masks, the first ones, are the decoder's; the others are SAM's. None = all.
    Returns:
        ids (H, W) int32, 0 = void, and the segments, numbered from 1 in the order of queries. The score of
        merged stuff is the mean over its pixels, its source the one of its largest part.
    """
    masks = MaskRows.of(mask_pred)
    scores, labels = mask_cls.float().softmax(dim=-1).max(dim=-1)
    kept = ((labels < mask_cls.shape[1] - 1) & (scores > object_mask_threshold)).nonzero()[:, 0]
    if len(kept) == 0:
        return torch.zeros(masks.shape[1:], dtype=torch.int32, device=masks.device), []
    scores, labels = scores[kept], labels[kept]
    winner, areas = _compete(masks.chosen(kept), scores)
    table = torch.stack(
        [
            in_float64(scores),
            in_float64(labels),
            in_float64(is_thing.to(labels.device)[labels]),
            in_float64(kept),
            *in_float64(areas),
        ],
        dim=1,
    ).tolist()  # the one transfer: what happens per query happens on the host
    queries = [
        _Query(
            score=score,
            label=int(label),
            is_thing=bool(thing),
            source="decoder" if of_decoder is None or index < of_decoder else "sam",
            own_area=int(own),
            won_area=int(won),
            area=int(area),
        )
        for score, label, thing, index, own, won, area in table
    ]
    ids, segments = _number(queries, overlap_threshold)
    return _with_ids(winner, ids), segments


@dataclass(frozen=True)
class _Query:
    """A kept query; areas in pixels: of its own mask, of the pixels it wins, and of both."""

    score: float
    label: int
    is_thing: bool
    source: MaskOrigin
    own_area: int
    won_area: int
    area: int


@torch.no_grad()
def _compete(masks: MaskRows, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Which mask, counted from 1, wins each pixel (H, W) int32, 0 where its own mask does not hold it; and three
    areas of every mask (3, N): its own, that of the pixels it wins, and that of both."""
    count, height, width = masks.shape
    winner = torch.empty(height, width, dtype=torch.int32, device=masks.device)
    areas = torch.zeros(3, count, dtype=torch.int64, device=masks.device)

    def compete(rows: range) -> None:
        probability = masks.rows(rows).sigmoid_()
        best = best_of(probability * scores[:, None, None])
        # Floats, because torch turns flags into int64 before it counts them; a row's count is exact.
        holds = torch.ge(probability, 0.5, out=torch.empty_like(probability))
        own = (holds.gather(0, best[None])[0] > 0).long()
        counts = [_count(best, pixels, count) for pixels in (torch.ones_like(best), own)]
        winner[rows.start : rows.stop] = (best + 1) * own
        areas.add_(torch.stack([holds.sum(dim=2).long().sum(dim=1), *counts]))

    floats = count * masks.floats_per_row
    work_in_tiles(height, compete, floats_per_row=floats, device=masks.device)
    return winner, areas


def _with_ids(winner: Tensor, ids: list[int]) -> Tensor:
    """(H, W) int32: the id of each pixel's winner, in the place of its number."""
    lookup = torch.tensor([0, *ids], dtype=torch.int32, device=winner.device)

    def fill(rows: range) -> None:
        tile = winner[rows.start : rows.stop]
        tile.copy_(lookup[tile.long()])

    work_in_tiles(winner.shape[0], fill, floats_per_row=4.0 * winner.shape[1], device=winner.device)
    return winner


def _count(winner_HW: Tensor, pixels_HW: Tensor, number: int) -> Tensor:
    """Sum of `pixels_HW` for each winner, (number,)."""
    counts = torch.zeros(number, dtype=torch.int64, device=winner_HW.device)
    return counts.scatter_add_(0, winner_HW.flatten(), pixels_HW.flatten())


def _number(queries: list[_Query], overlap_threshold: float) -> tuple[list[int], list[SegmentInfo]]:
    """Segment id of each query, 0 = dropped, and the segments."""
    ids: list[int] = []
    segments: list[SegmentInfo] = []
    stuff: dict[int, SegmentInfo] = {}
    largest: dict[int, int] = {}  # class of stuff -> area of its largest part
    for query in queries:
        if query.area == 0 or query.won_area / query.own_area < overlap_threshold:
            ids.append(0)
            continue
        segment = stuff.get(query.label)
        if segment is None:
            segment = SegmentInfo(
                id=len(segments) + 1,
                category_id=query.label,
                isthing=query.is_thing,
                area=query.area,
                score=query.score,
                source=query.source,
            )
            largest[query.label] = query.area
            segments.append(segment)
            if not query.is_thing:
                stuff[query.label] = segment
        else:
            area = segment["area"] + query.area
            segment["score"] += (query.score - segment["score"]) * query.area / area
            segment["area"] = area
            if query.area > largest[query.label]:
                largest[query.label], segment["source"] = query.area, query.source
        ids.append(segment["id"])
    return ids, segments
