# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import base64
import io
import json
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from cmpf.web.limits import Upload
from cmpf.web.markup import error_panel, result_panel
from cmpf.web.view import Row, View

HOSTILE = "<img src=x onerror='alert(1)'>\"&"
VOID = {"img", "input", "br"}


class Reader(HTMLParser):
    """Collects elements and text, and checks that elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.opened: list[str] = []
        self.feed(text)
        assert self.opened == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of_class(self, name: str) -> dict[str, str | None]:
        (found,) = [a for _, a in self.elements if a.get("class") == name]
        return found


def panel(
    rows: tuple[Row, ...], *, missing: tuple[str, ...] = (), name: str = "farm", **view: object
) -> Reader:
    content = View(
        clear=Image.new("RGB", (640, 320)),
        tinted=Image.new("RGB", (640, 320)),
        ids=np.array([[0, 300]], dtype=np.int32),
        rows=rows,
        coco={"annotations": [{"name": HOSTILE}]},
        missing=missing,
    )
    upload = Upload(np.zeros((10, 20, 3), dtype=np.uint8), name, (10, 20))
    return Reader(result_panel(content, upload, seconds=0.26))


def row(name: str = "cat", score: float | None = 0.874, kind: str = "thing") -> Row:
    return Row(id=300, name=name, color=(255, 0, 16), kind=kind, score=score, share=0.123)


def test_a_row_says_name_kind_score_and_area() -> None:
    page = panel((row(),))
    text = " ".join(page.texts)
    for part in (
        "Segment",
        "Kind",
        "Score",
        "Area",
        "cat",
        "thing",
        "87%",
        "12.3%",
        "1 segment of 1 class",
        "0.3 s",
    ):
        assert part in text
    (line,) = [a for tag, a in page.elements if tag == "tr" and "data-id" in a]
    assert line["data-id"] == "300"
    assert line["data-tip"] == "cat 87%"
    assert any("#ff0010" in (a.get("style") or "") for _, a in page.elements)


def test_columns_that_a_task_does_not_know_are_left_out() -> None:
    text = panel((row(score=None, kind=""),)).texts
    assert "Score" not in text
    assert "Kind" not in text


def test_words_and_file_names_of_visitors_are_text_and_no_markup() -> None:
    page = panel((row(name=HOSTILE),), missing=(HOSTILE,), name=HOSTILE)
    assert all("onerror" not in attributes for _, attributes in page.elements)
    assert page.of_class("cmpf-result")["data-name"] == HOSTILE
    assert HOSTILE in page.texts
    assert [tag for tag, _ in page.elements].count("img") == 3
    assert [tag for tag, _ in Reader(error_panel(HOSTILE)).elements] == ["div", "strong", "p"]


def test_the_coco_file_and_the_id_map_can_be_read_back() -> None:
    page = panel((row(),))
    (text,) = [text for text in page.texts if text.startswith("{")]
    assert json.loads(text) == {"annotations": [{"name": HOSTILE}]}
    source = page.of_class("cmpf-ids")["src"] or ""
    ids = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))))
    assert ids.tolist() == [[[0, 0, 0], [44, 1, 0]]]  # 300 = 44 + 1 * 256


def test_the_summary_counts_and_tells_what_was_not_found_and_shrunk() -> None:
    assert "Nothing found" in " ".join(panel(()).texts)
    assert "table" not in [tag for tag, _ in panel(()).elements]
    text = " ".join(
        panel((row(), row("dog"), row("dog")), missing=tuple(f"word{i}" for i in range(14))).texts
    )
    assert "3 segments of 2 classes" in text
    assert "word11 and 2 more" in text
    assert "20 × 10 pixels" in text
    assert "shrunk" not in text
    view = View(Image.new("RGB", (8, 4)), Image.new("RGB", (8, 4)), np.zeros((4, 8), np.int32), (), {}, ())
    upload = Upload(np.zeros((4, 8, 3), dtype=np.uint8), "big", (400, 800))
    assert "8 × 4 pixels, shrunk from 800 × 400" in result_panel(view, upload, seconds=1)
