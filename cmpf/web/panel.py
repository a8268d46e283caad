# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The result panel of the page: a prediction as images and a table, and as HTML."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cmpf.common.tensors import masks_to_boxes
from cmpf.errors import first_few
from cmpf.formats.label_map import encode_panoptic_ids
from cmpf.inference import Instances, Prediction
from cmpf.inference.conversions import coco_panoptic, coco_results
from cmpf.visualization.palette import Color, class_color, shades
from cmpf.web.archive import ImageResult
from cmpf.web.inputs import Upload

TASKS = ("panoptic", "semantic", "instance")
OPACITY = 60  # percent, initially
MAX_MISSING = 12  # classes that were not found and are listed; the others are counted
JPEG = {"quality": 93, "subsampling": 0}
MASK_NAMES = {"decoder": "decoder", "sam": "SAM"}
WELCOME = (
    "<div class='cmpf-empty'><p><strong>Results appear here.</strong></p>"
    "<p>Upload an image, enter class names, and press Segment.</p></div>"
)


@dataclass(frozen=True)
class Row:
    """A segment in the table.

    id: its value in View.ids.
    name: class name.
    color: as in the image.
    kind: "thing" or "stuff" for panoptic results, else "".
    score: in [0, 1]; None for semantic results.
    share: of the image's pixels, in [0, 1].
    source: origin of the mask, "decoder" or "sam"; "" for semantic results.
    """

    id: int
    name: str
    color: Color
    kind: str
    score: float | None
    share: float
    source: str = ""


@dataclass(frozen=True)
class View:
    """The result of one task, as the page shows it.

    clear, tinted: the image with outlines and labels, with opacity 0 and 1; the page blends them to any opacity.
    ids: (H, W) int32, 0 = no segment.
    rows: largest segment first.
    coco: content of the COCO JSON file.
    missing: classes that were not found.
    """

    clear: Image.Image
    tinted: Image.Image
    ids: NDArray[np.int32]
    rows: tuple[Row, ...]
    coco: Any
    missing: tuple[str, ...]


_Content = tuple["NDArray[np.int32]", "list[Row]", Any]  # ids, rows, coco; see View


def make_view(prediction: Prediction, task: str, *, name: str) -> View:
    """The view of one task's result.

    Args:
        task: one of TASKS, for which the prediction has a result.
        name: name of the image in the COCO file.
    """
    make_content = {"panoptic": _panoptic, "semantic": _semantic, "instance": _instance}[task]
    ids, rows, coco = make_content(prediction, name)
    found = {row.name for row in rows}
    return View(
        clear=prediction.plot(task, opacity=0.0),
        tinted=prediction.plot(task, opacity=1.0),
        ids=ids,
        rows=tuple(sorted(rows, key=lambda row: -row.share)),
        coco=coco,
        missing=tuple(name for name in prediction.names if name not in found),
    )


def _panoptic(prediction: Prediction, name: str) -> _Content:
    segments = prediction.segments
    colors = shades([segment.category_id for segment in segments], prediction.names)
    rows = [
        Row(
            id=segment.id,
            name=segment.category,
            color=color,
            kind="thing" if segment.isthing else "stuff",
            score=segment.score,
            share=segment.area / prediction.panoptic.size,
            source=segment.source,
        )
        for segment, color in zip(segments, colors, strict=True)
    ]
    return prediction.panoptic, rows, coco_panoptic(segments, name, f"{name}_ids.png")


def _semantic(prediction: Prediction, name: str) -> _Content:
    labels = prediction.semantic
    classes, counts = np.unique(labels, return_counts=True)
    rows = [
        Row(
            id=int(index) + 1,
            name=prediction.names[index],
            color=class_color(int(index), prediction.names[index]),
            kind="",
            score=None,
            share=float(count) / labels.size,
        )
        for index, count in zip(classes, counts, strict=True)
    ]
    masks = np.stack([labels == index for index in classes])
    regions = Instances(  # one per class
        masks=masks,
        boxes=masks_to_boxes(torch.from_numpy(masks)).numpy(),
        scores=np.ones(len(classes), dtype=np.float32),
        labels=classes.astype(np.int64),
        sources=np.full(len(classes), "decoder"),
    )
    return labels.astype(np.int32) + 1, rows, _coco_content(regions, prediction, name)


def _instance(prediction: Prediction, name: str) -> _Content:
    instances = prediction.instances
    areas = np.array([np.count_nonzero(mask) for mask in instances.masks])
    ids = np.zeros(prediction.image.shape[:2], dtype=np.int32)
    for index in np.argsort(-areas, kind="stable"):  # small ones on top, as in the image
        ids[instances.masks[index]] = index + 1
    colors = shades([int(label) for label in instances.labels], prediction.names)
    rows = [
        Row(
            id=index + 1,
            name=prediction.names[instances.labels[index]],
            color=color,
            kind="",
            score=float(instances.scores[index]),
            share=float(areas[index]) / ids.size,
            source=str(instances.sources[index]),
        )
        for index, color in enumerate(colors)
    ]
    return ids, rows, _coco_content(instances, prediction, name)


def _coco_content(instances: Instances, prediction: Prediction, name: str) -> dict[str, Any]:
    """COCO annotations, and the categories that occur in them."""
    annotations = coco_results(instances, name)
    categories = [
        {"id": int(index), "name": prediction.names[index]} for index in np.unique(instances.labels)
    ]
    return {"annotations": annotations, "categories": categories}


def id_map(ids: NDArray[np.int32]) -> Image.Image:
    """Encodes ids (H, W) as an image with id = R + 256 G + 65536 B, as in COCO panoptic files."""
    return Image.fromarray(encode_panoptic_ids(ids))


def error_panel(message: str) -> str:
    """The HTML of an error message."""
    return f"<div class='cmpf-error' role='alert'><strong>Error</strong><p>{escape(message)}</p></div>"


def result_panel(view: View, upload: Upload, *, seconds: float) -> str:
    """The HTML of a result: image with opacity slider and downloads, a summary, and the table of segments.

    Args:
        seconds: time that the result took.
    """
    height, width = view.clear.height, view.clear.width
    name = escape(upload.name, quote=True)
    return "".join(
        [
            f"<div class='cmpf-result' data-name='{name}'>",
            _toolbar(),
            f"<div class='cmpf-view' style='--ratio:{width / height:.5f}'>",
            f"<img class='cmpf-clear' alt='{name} with outlines' src='{_data_uri(view.clear, 'jpeg', **JPEG)}'>",
            f"<img class='cmpf-tinted' alt='' src='{_data_uri(view.tinted, 'jpeg', **JPEG)}'>",
            f"<img class='cmpf-ids' alt='' hidden src='{_data_uri(id_map(view.ids), 'png', compress_level=4)}'>",
            "<canvas class='cmpf-spot'></canvas><div class='cmpf-tip' hidden></div></div>",
            f"<p class='cmpf-summary' role='status'>{_summary(view, upload, seconds)}</p>",
            _table(view.rows),
            f"<div class='cmpf-coco' hidden>{escape(json.dumps(view.coco, ensure_ascii=False))}</div></div>",
        ]
    )


def batch_panel(results: Sequence[ImageResult], *, seconds: float) -> str:
    """The HTML of a batch: the classes found in each image, or why it could not be read."""
    done = [result for result in results if not result.error]
    text = f"<strong>{len(done)} of {_plural(len(results), 'image')} segmented</strong> in {seconds:.1f} s"
    if any(result.size != result.original_size for result in done):
        text += "<br>Large images were shrunk; overlays and instances.json have the smaller size."
    rows = "".join(
        f"<tr><td>{escape(result.name)}</td><td>{_findings(result)}</td></tr>" for result in results
    )
    return (
        f"<div class='cmpf-batch'><p class='cmpf-summary' role='status'>{text}</p>"
        "<div class='cmpf-rows' tabindex='0'><table><thead><tr><th scope='col'>Image</th>"
        f"<th scope='col'>Found</th></tr></thead><tbody>{rows}</tbody></table></div></div>"
    )


def _findings(result: ImageResult) -> str:
    if result.error:
        return f"<strong>failed:</strong> {escape(result.error.removeprefix(f'{result.name}: '))}"
    return (
        escape(", ".join(f"{count} {name}" for name, count in result.class_counts.items())) or "nothing found"
    )


def _toolbar() -> str:
    buttons = [("image", "Image"), ("coco", "COCO JSON"), ("ids", "ID map")]
    downloads = "".join(f"<button type='button' data-save='{key}'>{text}</button>" for key, text in buttons)
    return (
        "<div class='cmpf-bar'><label>Opacity <input class='cmpf-opacity' type='range' min='0' max='100' "
        f"value='{OPACITY}'><output>{OPACITY}%</output></label>"
        f"<span class='cmpf-saving'><span>Download</span>{downloads}</span></div>"
    )


def _summary(view: View, upload: Upload, seconds: float) -> str:
    classes, count = len({row.name for row in view.rows}), len(view.rows)
    found = (
        f"{_plural(count, 'segment')} of {_plural(classes, 'class', 'classes')}" if count else "Nothing found"
    )
    size, original = upload.pixels.shape[:2], upload.original_size
    pixels = f"{size[1]} × {size[0]} pixels"
    if original != size:
        pixels += f", shrunk from {original[1]} × {original[0]}"
    text = f"<strong>{found}</strong> in {seconds:.1f} s · {pixels}"
    if view.missing:
        text += f"<br>Not found: {first_few(map(escape, view.missing), MAX_MISSING)}"
    return text


def _plural(count: int, singular: str, plural: str = "") -> str:
    return f"{count} {singular if count == 1 else plural or singular + 's'}"


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    kinds, scores = any(row.kind for row in rows), any(row.score is not None for row in rows)
    sources = any(row.source == "sam" for row in rows)  # else all masks are from the decoder
    head = ["Segment", *["Kind"] * kinds, *["Mask"] * sources, *["Score"] * scores, "Area"]
    cells = "".join(f"<th scope='col'>{title}</th>" for title in head)
    body = "".join(_row(row, kinds=kinds, sources=sources, scores=scores) for row in rows)
    return f"<div class='cmpf-rows'><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"


def _row(row: Row, *, kinds: bool, sources: bool, scores: bool) -> str:
    color = "#{:02x}{:02x}{:02x}".format(*row.color)
    parts = [f"<td><i style='background:{color}'></i>{escape(row.name)}</td>"]
    if kinds:
        parts.append(f"<td>{row.kind}</td>")
    if sources:
        parts.append(f"<td>{MASK_NAMES[row.source]}</td>")
    if scores:
        percent = 100 * (row.score or 0.0)
        parts.append(f"<td><b style='--share:{percent:.0f}%;--tint:{color}'></b>{percent:.0f}%</td>")
    parts.append(f"<td>{100 * row.share:.1f}%</td>")
    tip = escape(row.name + (f" {100 * row.score:.0f}%" if row.score is not None else ""), quote=True)
    return f"<tr tabindex='0' data-id='{row.id}' data-tip='{tip}'>{''.join(parts)}</tr>"


def _data_uri(image: Image.Image, format_: str, **options: int) -> str:
    """Encodes an image as a data URI; `options` are those of Pillow's writer."""
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return f"data:image/{format_};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
