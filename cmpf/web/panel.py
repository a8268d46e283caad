# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The page's result panel: a prediction as two images to blend, ids and rows, and as HTML with words escaped."""

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
from cmpf.web.archive import Line
from cmpf.web.inputs import Upload

TASKS = ("panoptic", "semantic", "instance")
_Parts = tuple[Prediction, "NDArray[np.int32]", "list[Row]", Any]
OPACITY = 60  # percent, at first
MANY_MISSING = 12  # words named below the image; the rest is counted
PHOTO = {"quality": 93, "subsampling": 0}  # of JPEG
MASK_NAMES = {"decoder": "decoder", "sam": "SAM"}
WELCOME = (
    "<div class='cmpf-empty'><p><strong>The result appears here.</strong></p>"
    "<p>Drop an image, name what to look for, press Segment.</p></div>"
)


@dataclass(frozen=True)
class Row:
    """One segment in the table.

    id: its value in View.ids; color: as in the image; kind: "thing" or "stuff" where the task tells them apart;
    score: 0..1, None for semantic results; share: of the image's pixels, 0..1; source: whose mask it is, "" where
    masks are summed.
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


def _panoptic(prediction: Prediction, name: str) -> _Parts:
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
    return prediction, prediction.panoptic, rows, coco_panoptic(segments, name, f"{name}_ids.png")


def _semantic(prediction: Prediction, name: str) -> _Parts:
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
    whole = Instances(
        masks=masks,
        boxes=masks_to_boxes(torch.from_numpy(masks)).numpy(),
        scores=np.ones(len(classes), dtype=np.float32),
        labels=classes.astype(np.int64),
        sources=np.full(len(classes), "decoder"),
    )
    return prediction, labels.astype(np.int32) + 1, rows, _with_categories(whole, prediction, name)


def _instance(prediction: Prediction, name: str) -> _Parts:
    found = prediction.instances
    areas = np.array([np.count_nonzero(mask) for mask in found.masks])
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
            source=str(found.sources[place]),
        )
        for place, color in enumerate(shades([int(label) for label in found.labels], prediction.names))
    ]
    return prediction, ids, rows, _with_categories(found, prediction, name)


def _with_categories(found: Instances, prediction: Prediction, name: str) -> dict[str, Any]:
    """COCO's form: annotations and the categories that occur in them."""
    annotations = coco_results(found, name)
    categories = [{"id": int(index), "name": prediction.names[index]} for index in np.unique(found.labels)]
    return {"annotations": annotations, "categories": categories}


def id_map(ids: NDArray[np.int32]) -> Image.Image:
    """(H, W) ids as an image with id = R + 256 G + 65536 B, as COCO panoptic files have them."""
    return Image.fromarray(encode_panoptic_ids(ids))


def error_panel(message: str) -> str:
    """An error as text."""
    return f"<div class='cmpf-error' role='alert'><strong>That did not work.</strong><p>{escape(message)}</p></div>"


def result_panel(view: View, upload: Upload, *, seconds: float) -> str:
    """Image with opacity and downloads, what was found, and the table of segments.

    Args:
        seconds: that the result took.
    """
    height, width = view.clear.height, view.clear.width
    name = escape(upload.name, quote=True)
    return "".join(
        [
            f"<div class='cmpf-result' data-name='{name}'>",
            _toolbar(),
            f"<div class='cmpf-view' style='--ratio:{width / height:.5f}'>",
            f"<img class='cmpf-clear' alt='{name} with outlines' src='{_address(view.clear, 'jpeg', **PHOTO)}'>",
            f"<img class='cmpf-tinted' alt='' src='{_address(view.tinted, 'jpeg', **PHOTO)}'>",
            f"<img class='cmpf-ids' alt='' hidden src='{_address(id_map(view.ids), 'png', compress_level=4)}'>",
            "<canvas class='cmpf-spot'></canvas><div class='cmpf-tip' hidden></div></div>",
            f"<p class='cmpf-summary' role='status'>{_summary(view, upload, seconds)}</p>",
            _table(view.rows),
            f"<div class='cmpf-coco' hidden>{escape(json.dumps(view.coco, ensure_ascii=False))}</div></div>",
        ]
    )


def batch_panel(lines: Sequence[Line], *, seconds: float) -> str:
    """What was found in each of several images, and which could not be read."""
    done = [line for line in lines if not line.error]
    text = f"<strong>{len(done)} of {_counted(len(lines), 'image')} segmented</strong> in {seconds:.1f} s"
    if any(line.size != line.shrunk_from for line in done):
        text += "<br>Large images were shrunk; overlays and instances.json have the smaller size."
    rows = "".join(f"<tr><td>{escape(line.name)}</td><td>{_findings(line)}</td></tr>" for line in lines)
    return (
        f"<div class='cmpf-batch'><p class='cmpf-summary' role='status'>{text}</p>"
        "<div class='cmpf-rows' tabindex='0'><table><thead><tr><th scope='col'>Image</th>"
        f"<th scope='col'>Found</th></tr></thead><tbody>{rows}</tbody></table></div></div>"
    )


def _findings(line: Line) -> str:
    if line.error:
        return f"<strong>not read:</strong> {escape(line.error.removeprefix(f'{line.name}: '))}"
    return escape(", ".join(f"{count} {name}" for name, count in line.found.items())) or "nothing"


def _toolbar() -> str:
    buttons = [("image", "Image"), ("coco", "COCO JSON"), ("ids", "Id map")]
    saving = "".join(f"<button type='button' data-save='{kind}'>{text}</button>" for kind, text in buttons)
    return (
        "<div class='cmpf-bar'><label>Opacity <input class='cmpf-opacity' type='range' min='0' max='100' "
        f"value='{OPACITY}'><output>{OPACITY}%</output></label>"
        f"<span class='cmpf-saving'><span>Download</span>{saving}</span></div>"
    )


def _summary(view: View, upload: Upload, seconds: float) -> str:
    classes, count = len({row.name for row in view.rows}), len(view.rows)
    found = (
        f"{_counted(count, 'segment')} of {_counted(classes, 'class', 'classes')}"
        if count
        else "Nothing found"
    )
    size, original = upload.pixels.shape[:2], upload.original_size
    pixels = f"{size[1]} × {size[0]} pixels"
    if original != size:
        pixels += f", shrunk from {original[1]} × {original[0]}"
    text = f"<strong>{found}</strong> in {seconds:.1f} s · {pixels}"
    if view.missing:
        text += f"<br>Not found: {first_few(map(escape, view.missing), MANY_MISSING)}"
    return text


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    kinds, scores = any(row.kind for row in rows), any(row.score is not None for row in rows)
    sources = any(row.source == "sam" for row in rows)  # else all are the decoder's
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


def _address(image: Image.Image, kind: str, **options: int) -> str:
    """An image as an address that holds it; options of Pillow's writer."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
