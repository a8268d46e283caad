# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A prediction as the page shows it: two images to blend, an id for each pixel, a row a segment, a COCO file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cmpf.common.tensors import masks_to_boxes
from cmpf.formats.label_map import encode_panoptic_ids
from cmpf.inference import Instances, Prediction
from cmpf.inference.conversions import coco_panoptic, coco_results
from cmpf.visualization.overlay import worth_showing
from cmpf.visualization.palette import Color, shade, shades

TASKS = ("panoptic", "semantic", "instance")
MIN_SCORE, MAX_OVERLAP = 0.3, 0.7  # of shown instances, as draw_instances has them


@dataclass(frozen=True)
class Row:
    """One segment in the table.

    id: its value in View.ids; color: as in the image; kind: "thing" or "stuff" where the task tells them apart;
    score: 0..1, None for semantic results; share: of the image's pixels, 0..1.
    """

    id: int
    name: str
    color: Color
    kind: str
    score: float | None
    share: float


@dataclass(frozen=True)
class View:
    """What the page needs of one result.

    clear, tinted: the image with outlines and labels, without tint and with nothing but tint; every opacity is a
        blend of the two, so that the page needs no further inference for it.
    ids: (H, W) int32, 0 = nothing found here. rows: largest first. coco: the content of the COCO JSON file.
    missing: classes that were not found.
    """

    clear: Image.Image
    tinted: Image.Image
    ids: NDArray[np.int32]
    rows: tuple[Row, ...]
    coco: Any
    missing: tuple[str, ...]


def view_of(prediction: Prediction, task: str, *, name: str) -> View:
    """The view of one task's result.

    Args:
        task: one of TASKS, which ran.
        name: of the image, in the COCO file.
    """
    prepare = {"panoptic": _panoptic, "semantic": _semantic, "instance": _instance}[task]
    shown, ids, rows, coco = prepare(prediction, name)
    found = {row.name for row in rows}
    return View(
        clear=shown.plot(task, opacity=0.0),
        tinted=shown.plot(task, opacity=1.0),
        ids=ids,
        rows=tuple(sorted(rows, key=lambda row: -row.share)),
        coco=coco,
        missing=tuple(name for name in prediction.names if name not in found),
    )


_Parts = tuple[Prediction, "NDArray[np.int32]", "list[Row]", Any]


def _panoptic(prediction: Prediction, name: str) -> _Parts:
    segments = prediction.segments
    colors = shades([segment.category_id for segment in segments])
    rows = [
        Row(
            id=segment.id,
            name=segment.category,
            color=color,
            kind="thing" if segment.isthing else "stuff",
            score=segment.score,
            share=segment.area / prediction.panoptic.size,
        )
        for segment, color in zip(segments, colors, strict=True)
    ]
    return prediction, prediction.panoptic, rows, coco_panoptic(segments, name, f"{name}_ids.png")


def _semantic(prediction: Prediction, name: str) -> _Parts:
    labels = prediction.semantic
    classes, counts = np.unique(labels, return_counts=True)
    rows = [
        Row(
            id=int(index) + 1,
            name=prediction.names[index],
            color=shade(int(index), 0),
            kind="",
            score=None,
            share=float(count) / labels.size,
        )
        for index, count in zip(classes, counts, strict=True)
    ]
    masks = np.stack([labels == index for index in classes])
    whole = Instances(
        masks=masks,
        boxes=masks_to_boxes(torch.from_numpy(masks)).numpy(),
        scores=np.ones(len(classes), dtype=np.float32),
        labels=classes.astype(np.int64),
    )
    return prediction, labels.astype(np.int32) + 1, rows, _with_categories(whole, prediction, name)


def _instance(prediction: Prediction, name: str) -> _Parts:
    """Only instances that the image shows, also in the file: what one sees is what one gets."""
    every = prediction.instances
    chosen = worth_showing(every.masks, every.scores, MIN_SCORE, MAX_OVERLAP)
    found = Instances(every.masks[chosen], every.boxes[chosen], every.scores[chosen], every.labels[chosen])
    areas = found.masks.sum(axis=(1, 2))
    ids = np.zeros(prediction.image.shape[:2], dtype=np.int32)
    for place in np.argsort(-areas, kind="stable"):  # small ones on top, as they are drawn
        ids[found.masks[place]] = place + 1
    rows = [
        Row(
            id=place + 1,
            name=prediction.names[found.labels[place]],
            color=color,
            kind="",
            score=float(found.scores[place]),
            share=float(areas[place]) / ids.size,
        )
        for place, color in enumerate(shades([int(label) for label in found.labels]))
    ]
    shown = replace(prediction, instances_result=found)
    return shown, ids, rows, _with_categories(found, prediction, name)


def _with_categories(found: Instances, prediction: Prediction, name: str) -> dict[str, Any]:
    """COCO's form: annotations and the categories that occur in them."""
    annotations = coco_results(found, name)
    categories = [{"id": int(index), "name": prediction.names[index]} for index in np.unique(found.labels)]
    return {"annotations": annotations, "categories": categories}


def id_map(ids: NDArray[np.int32]) -> Image.Image:
    """(H, W) ids as an image with id = R + 256 G + 65536 B, as COCO panoptic files have them."""
    return Image.fromarray(encode_panoptic_ids(ids))
