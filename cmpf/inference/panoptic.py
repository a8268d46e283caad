# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Panoptic inference: assigns each pixel to at most one query (MaskFormer, Sec. 3.4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cmpf.common.tensors import in_float64
from cmpf.inference.resize import MaskRows, argmax_channels, work_in_tiles
from cmpf.types import MaskOrigin, SegmentInfo


def panoptic_inference(
    mask_cls: Tensor,
    mask_pred: Tensor | MaskRows,
    *,
    is_thing: Tensor,
    object_mask_threshold: float,
    overlap_threshold: float,
    num_decoder_masks: int | None = None,
) -> tuple[Tensor, list[SegmentInfo]]:
    """Assigns each pixel to the kept query with the largest score * sigmoid(mask).

    Args:
        mask_cls: (Q, K + 1) log class distribution, last column void.
        mask_pred: (Q, H, W) mask logits, or MaskRows, computed a few rows at a time; only kept queries are read.
        is_thing: (K,) bool; segments of the same stuff class are merged.
        object_mask_threshold: queries whose best class is void or whose score is not above this are dropped.
        overlap_threshold: a query that wins less than this fraction of the area of its own mask is dropped.
        num_decoder_masks: number of leading masks that are the decoder's; the others are SAM's. None = all.
    Returns:
        ids (H, W) int32, 0 = void, and the segments, numbered from 1 in the order of queries. Merged stuff has the
        mean score of its pixels and the source of its largest part.
    """
    masks = MaskRows.of(mask_pred)
    scores, labels = mask_cls.float().softmax(dim=-1).max(dim=-1)
    kept = ((labels < mask_cls.shape[1] - 1) & (scores > object_mask_threshold)).nonzero()[:, 0]
    if len(kept) == 0:
        return torch.zeros(masks.shape[1:], dtype=torch.int32, device=masks.device), []
    scores, labels = scores[kept], labels[kept]
    winner, areas = _assign_pixels(masks.chosen(kept), scores)
    table = torch.stack(
        [
            in_float64(scores),
            in_float64(labels),
            in_float64(is_thing.to(labels.device)[labels]),
            in_float64(kept),
            *in_float64(areas),
        ],
        dim=1,
    ).tolist()  # one transfer to the host, where the loop over queries runs
    queries = [
        _Query(
            score=score,
            label=int(label),
            is_thing=bool(thing),
            source="decoder" if num_decoder_masks is None or index < num_decoder_masks else "sam",
            mask_area=int(mask_area),
            won_area=int(won_area),
            area=int(area),
        )
        for score, label, thing, index, mask_area, won_area, area in table
    ]
    ids, segments = _make_segments(queries, overlap_threshold)
    return _map_to_ids(winner, ids), segments


@dataclass(frozen=True)
class _Query:
    """A kept query. Areas in pixels: of its mask, of the pixels it wins, and of their intersection."""

    score: float
    label: int
    is_thing: bool
    source: MaskOrigin
    mask_area: int
    won_area: int
    area: int


@torch.no_grad()
def _assign_pixels(masks: MaskRows, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Assigns pixels to masks.

    Returns:
        (H, W) int32, index from 1 of the mask that wins each pixel, 0 where that mask does not cover the pixel; and
        (3, N) int64, the areas of each mask, of the pixels it wins, and of their intersection.
    """
    count, height, width = masks.shape
    winner = torch.empty(height, width, dtype=torch.int32, device=masks.device)
    areas = torch.zeros(3, count, dtype=torch.int64, device=masks.device)

    def assign(rows: range) -> None:
        probability = masks.rows(rows).sigmoid_()
        best = argmax_channels(probability * scores[:, None, None])
        # In floats, because torch converts bool to int64 before it sums; the count of a row is exact.
        inside = torch.ge(probability, 0.5, out=torch.empty_like(probability))
        is_inside_best = (inside.gather(0, best[None])[0] > 0).long()
        counts = [_bincount(best, weights, count) for weights in (torch.ones_like(best), is_inside_best)]
        winner[rows.start : rows.stop] = (best + 1) * is_inside_best
        areas.add_(torch.stack([inside.sum(dim=2).long().sum(dim=1), *counts]))

    floats = count * masks.floats_per_row
    work_in_tiles(height, assign, floats_per_row=floats, device=masks.device)
    return winner, areas


def _map_to_ids(winner: Tensor, ids: list[int]) -> Tensor:
    """Replaces mask indices (H, W) by segment ids in place."""
    lookup = torch.tensor([0, *ids], dtype=torch.int32, device=winner.device)

    def fill(rows: range) -> None:
        tile = winner[rows.start : rows.stop]
        tile.copy_(lookup[tile.long()])

    work_in_tiles(winner.shape[0], fill, floats_per_row=4.0 * winner.shape[1], device=winner.device)
    return winner


def _bincount(index_HW: Tensor, weights_HW: Tensor, length: int) -> Tensor:
    """Sum (length,) int64 of the weights for each index."""
    counts = torch.zeros(length, dtype=torch.int64, device=index_HW.device)
    return counts.scatter_add_(0, index_HW.flatten(), weights_HW.flatten())


def _make_segments(queries: list[_Query], overlap_threshold: float) -> tuple[list[int], list[SegmentInfo]]:
    """Segment id of each query, 0 = dropped, and the segments."""
    ids: list[int] = []
    segments: list[SegmentInfo] = []
    stuff: dict[int, SegmentInfo] = {}
    largest: dict[int, int] = {}  # stuff class -> area of its largest part
    for query in queries:
        if query.area == 0 or query.won_area / query.mask_area < overlap_threshold:
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
