# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import base64
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from cmpf.inference import Instances, Prediction, Segment, Selection
from cmpf.visualization import class_color
from cmpf.visualization.palette import shade
from cmpf.web.inputs import Upload
from cmpf.web.panel import Row, View, error_panel, id_map, make_view, result_panel

H, W = 6, 8
HOSTILE = "<img src=x onerror='alert(1)'>\"&"
VOID = {"img", "input", "br"}


def prediction(**results: object) -> Prediction:
    image = np.full((H, W, 3), 90, dtype=np.uint8)
    none = {"panoptic_result": None, "semantic_result": None, "instances_result": None}
    return Prediction(image=image, names=("sky", "cat", "dog"), source="image_0", **(none | results))  # type: ignore[arg-type]


def panoptic() -> Prediction:
    ids = np.zeros((H, W), dtype=np.int32)
    ids[:2], ids[3:, :3], ids[3:, 5:7] = 1, 2, 7  # 16, 9 and 6 of 48 pixels
    segments = (
        Segment(2, "cat", 1, True, 0.9, 9, (0, 3, 3, 3)),
        Segment(1, "sky", 0, False, 0.8, 16, (0, 0, 8, 2)),
        Segment(7, "cat", 1, True, 0.6, 6, (5, 3, 2, 3)),
    )
    return prediction(panoptic_result=(ids, segments))


def test_panoptic_rows_come_largest_first_with_the_images_colors() -> None:
    view = make_view(panoptic(), "panoptic", name="farm")
    assert [(row.id, row.name, row.kind, row.score) for row in view.rows] == [
        (1, "sky", "stuff", 0.8), (2, "cat", "thing", 0.9), (7, "cat", "thing", 0.6)
    ]  # fmt: skip
    assert [row.share for row in view.rows] == pytest.approx([16 / 48, 9 / 48, 6 / 48])
    assert [row.color for row in view.rows] == [class_color(0), class_color(1), shade(1, 1)]
    assert view.missing == ("dog",)
    tinted = np.asarray(view.tinted)  # far from borders and labels, opacity 1 leaves only the color
    assert (tinted == np.array(class_color(1))).all(axis=-1).any()
    assert (tinted == np.array(shade(1, 1))).all(axis=-1).any()
    assert view.clear.size == view.tinted.size


def test_the_panoptic_file_belongs_to_the_id_map_that_is_downloaded_with_it() -> None:
    view = make_view(panoptic(), "panoptic", name="farm")
    (annotation,) = view.coco["annotations"]
    assert annotation["file_name"] == "farm_ids.png"
    assert {info["id"] for info in annotation["segments_info"]} == {1, 2, 7}
    pixels = np.asarray(id_map(view.ids)).astype(np.int64)
    assert (pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2] == view.ids).all()


def test_ids_beyond_a_byte_survive_the_id_map() -> None:
    # 70000 = 1 * 65536 + 17 * 256 + 112
    assert np.asarray(id_map(np.array([[70000]], dtype=np.int32))).tolist() == [[[112, 17, 1]]]


def test_semantic_classes_are_rows_without_scores_and_masks_in_the_file() -> None:
    labels = np.zeros((H, W), dtype=np.uint16)
    labels[2:5, 1:3] = 2  # 6 of 48 pixels
    view = make_view(prediction(semantic_result=labels), "semantic", name="farm")
    assert [(row.id, row.name, row.score, row.kind) for row in view.rows] == [
        (1, "sky", None, ""), (3, "dog", None, "")
    ]  # fmt: skip
    assert (view.ids == labels.astype(np.int32) + 1).all()
    assert view.missing == ("cat",)
    assert [category["name"] for category in view.coco["categories"]] == ["sky", "dog"]
    dog = view.coco["annotations"][1]
    assert dog["bbox"] == [1, 2, 2, 3]
    assert (coco_mask.decode(dog["segmentation"]).astype(bool) == (labels == 2)).all()


def test_instances_are_those_of_the_image_and_small_ones_lie_on_top() -> None:
    masks = np.zeros((4, H, W), dtype=bool)
    masks[0, :4], masks[1, 1:3, 2:4], masks[2, :4], masks[3, 5:] = True, True, True, True
    found = Instances(
        masks=masks,
        boxes=np.zeros((4, 4), dtype=np.float32),
        scores=np.array([0.9, 0.8, 0.7, 0.2], dtype=np.float32),
        labels=np.array([1, 2, 1, 0]),
        sources=np.array(["decoder", "sam", "decoder", "decoder"]),
    )
    chosen = Selection().filter_instances(found)
    view = make_view(prediction(instances_result=chosen), "instance", name="farm")
    # The third covers the same pixels as the first, and the fourth has less than 30 percent: both are left out.
    assert [(row.id, row.name) for row in view.rows] == [(1, "cat"), (2, "dog")]
    assert view.ids[2, 3] == 2
    assert view.ids[0, 0] == 1
    assert view.ids[5, 0] == 0
    assert [a["category_id"] for a in view.coco["annotations"]] == [1, 2]
    assert view.missing == ("sky",)


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_a_result_without_segments_is_the_plain_image(task: str) -> None:
    nothing = prediction(
        panoptic_result=(np.zeros((H, W), dtype=np.int32), ()),
        instances_result=Instances(
            np.zeros((0, H, W), dtype=bool), np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.float32),
            np.zeros(0, dtype=np.int64), np.zeros(0, dtype=str),
        ),
    )  # fmt: skip
    view = make_view(nothing, task, name="farm")
    assert view.rows == ()
    assert view.missing == ("sky", "cat", "dog")
    assert set(np.asarray(view.tinted).reshape(-1).tolist()) == {90}
    assert isinstance(view.clear, Image.Image)


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
