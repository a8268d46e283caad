# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The page's result panel as HTML. Words of visitors are escaped; the panel's script is cmpf/assets/web_page.js."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from html import escape

from PIL import Image

from cmpf.web.limits import Upload
from cmpf.web.view import Row, View, id_map

OPACITY = 60  # percent, at first
MANY_MISSING = 12  # words named below the image; the rest is counted

WELCOME = (
    "<div class='cmpf-empty'><p><strong>The result appears here.</strong></p>"
    "<p>Drop an image, name what to look for, press Segment.</p></div>"
)


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
            f"<img class='cmpf-clear' alt='{name} with outlines' src='{_photo(view.clear)}'>",
            f"<img class='cmpf-tinted' alt='' src='{_photo(view.tinted)}'>",
            f"<img class='cmpf-ids' alt='' hidden src='{_exact(id_map(view.ids))}'>",
            "<canvas class='cmpf-spot'></canvas><div class='cmpf-tip' hidden></div></div>",
            f"<p class='cmpf-summary'>{_summary(view, upload, seconds)}</p>",
            _table(view.rows),
            f"<div class='cmpf-coco' hidden>{escape(json.dumps(view.coco, ensure_ascii=False))}</div></div>",
        ]
    )


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
        named = ", ".join(escape(word) for word in view.missing[:MANY_MISSING])
        more = len(view.missing) - MANY_MISSING
        text += f"<br>Not found: {named}{f' and {more} more' if more > 0 else ''}"
    return text


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    kinds, scores = any(row.kind for row in rows), any(row.score is not None for row in rows)
    head = ["Segment", *["Kind"] * kinds, *["Score"] * scores, "Area"]
    cells = "".join(f"<th scope='col'>{title}</th>" for title in head)
    body = "".join(_row(row, kinds=kinds, scores=scores) for row in rows)
    return f"<div class='cmpf-rows'><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"


def _row(row: Row, *, kinds: bool, scores: bool) -> str:
    color = "#{:02x}{:02x}{:02x}".format(*row.color)
    parts = [f"<td><i style='background:{color}'></i>{escape(row.name)}</td>"]
    if kinds:
        parts.append(f"<td>{row.kind}</td>")
    if scores:
        percent = 100 * (row.score or 0.0)
        parts.append(f"<td><b style='--share:{percent:.0f}%;--tint:{color}'></b>{percent:.0f}%</td>")
    parts.append(f"<td>{100 * row.share:.1f}%</td>")
    tip = escape(row.name + (f" {100 * row.score:.0f}%" if row.score is not None else ""), quote=True)
    return f"<tr tabindex='0' data-id='{row.id}' data-tip='{tip}'>{''.join(parts)}</tr>"


def _photo(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=93, subsampling=0)
    return _address("jpeg", buffer)


def _exact(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=4)
    return _address("png", buffer)


def _address(kind: str, buffer: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
