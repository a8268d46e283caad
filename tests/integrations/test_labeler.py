# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Batches of images become batches of labels, whatever the images look like in a column."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers.labelling import OPTIONS, WORDS, encoded, labeler, picture
from PIL import Image

from cmpf.errors import CMPFError, VocabularyError
from cmpf.integrations import Labeler
from cmpf.labelling.inputs import Item
from cmpf.labelling.parquet import record_schema, records_of
from cmpf.labelling.record import record_of


def test_a_batch_of_files_gives_what_predict_finds() -> None:
    batch = {
        "image": [encoded(0), encoded(1)],
        "uri": np.array(["a.png", "b.png"]),
        "place": np.array([7, 8]),
    }
    labels = labeler()(batch)
    assert list(labels) == ["place", "uri", "sha256", "height", "width", "segments", "error"]
    assert labels["place"].tolist() == [7, 8]
    assert labels["sha256"].tolist() == [hashlib.sha256(encoded(seed)).hexdigest() for seed in (0, 1)]
    own = labeler()
    for row, seed in enumerate((0, 1)):
        expected = record_of(
            own.predictor.predict(picture(seed), own.vocabulary, task=["panoptic", "instance"]), ""
        )
        segments = labels["segments"][row]
        assert [s["counts"] for s in segments] == [s.counts for s in expected.segments]
        assert [s["score"] for s in segments] == [s.score for s in expected.segments]
        assert len(segments) > 0


def kinds(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "a.png").write_bytes(encoded(3))
    return {
        "bytes": encoded(3),
        "path": str(tmp_path / "a.png"),
        "array": picture(3),
        "PIL image": Image.fromarray(picture(3)),
        "Hugging Face's bytes": {"bytes": encoded(3), "path": None},
        "Hugging Face's path": {"bytes": None, "path": str(tmp_path / "a.png")},
    }


def test_every_form_of_an_image_gives_the_same_labels(tmp_path: Path) -> None:
    values = kinds(tmp_path)
    labels = labeler()({"image": list(values.values())})
    assert labels["error"].tolist() == [""] * len(values)
    for segments in labels["segments"][1:]:
        assert segments == labels["segments"][0]
    assert labels["uri"].tolist()[:3] == ["image_0", str(tmp_path / "a.png"), "image_2"]
    known = dict(zip(values, labels["sha256"].tolist(), strict=True))
    assert {kind for kind, sha256 in known.items() if not sha256} == {
        "array",
        "PIL image",
    }  # there are no bytes


def test_an_arrow_table_gives_a_table_of_records_with_the_other_columns() -> None:
    table = pa.table({"image": [encoded(0), b"", None], "uri": ["a", "b", "c"], "place": [1, 2, 3]})
    labels = labeler()(table)
    assert labels.schema.names == [*record_schema().names, "place"]
    assert labels.schema.field("segments").type == record_schema().field("segments").type
    first, second, third = records_of(labels)
    assert (first.uri, first.error) == ("a", "")
    assert "b: the file is empty" in second.error
    assert "cannot read an image from NoneType" in third.error
    assert labeler()(table.slice(0, 0)).num_rows == 0


def animation() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(picture(seed)) for seed in (0, 1)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def huge() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an image", "x: not an image of a kind that is read"),
        (encoded(0)[:200], "x: damaged or truncated"),
        (huge(), "x: 20000 x 20000 .H x W. is more than|x: too large"),
    ],
)
def test_an_image_that_cannot_be_read_is_a_row_with_an_error_between_others(
    content: bytes, message: str
) -> None:
    labels = labeler()({"image": [encoded(0), content, encoded(1)], "uri": ["a", "x", "b"]})
    assert labels["error"].tolist()[::2] == ["", ""]
    assert re.search(message, labels["error"][1])
    assert (labels["height"].tolist(), labels["segments"][1]) == ([48, 0, 48], [])
    assert labels["segments"][2]


def test_the_first_image_of_an_animation_counts() -> None:
    labels = labeler()({"image": [animation()]})
    assert (labels["error"][0], labels["height"][0]) == ("", 48)


def test_records_come_one_by_one_in_order_and_errors_stay() -> None:
    items = (
        Item(str(seed), encoded(seed) if seed != 2 else b"", "gone" if seed == 2 else "") for seed in range(5)
    )
    records = labeler().records(items)
    assert next(records).uri == "0"
    rest = list(records)
    assert [r.uri for r in rest] == ["1", "2", "3", "4"]
    assert [r.error for r in rest] == ["", "gone", "", ""]


def test_a_batch_without_images_is_named() -> None:
    with pytest.raises(CMPFError, match=r"no column 'image' but jpg, uri; name the one that holds .*column="):
        labeler()({"jpg": [b""], "uri": ["a"]})


def test_a_task_and_words_are_checked_when_it_is_made() -> None:
    with pytest.raises(CMPFError, match=r"task 'depth' is unknown; choose one of all, panoptic, instance"):
        Labeler("cmpf_tiny", WORDS, task="depth")
    with pytest.raises(VocabularyError, match=r"'cat' is repeated"):
        Labeler("cmpf_tiny", ["cat", "dog", "cat"], **OPTIONS)
    with pytest.raises(CMPFError, match=r"min_score must be a number from 0 to 1, got 2"):
        Labeler("cmpf_tiny", WORDS, min_score=2, **OPTIONS)


def test_one_result_sure_segments_and_other_columns_can_be_asked_for() -> None:
    assert {s["task"] for s in labeler()({"image": [encoded(0)]})["segments"][0]} == {"instance", "panoptic"}
    own = Labeler("cmpf_tiny", WORDS, task="panoptic", min_score=0.9, column="jpg", uri="name", **OPTIONS)
    labels = own({"jpg": [encoded(0)], "name": ["a"], "image": ["kept"]})
    assert {s["task"] for s in labels["segments"][0]} == {"panoptic"}
    assert all(s["score"] >= 0.9 for s in labels["segments"][0])
    assert (labels["uri"][0], labels["name"][0], labels["image"][0]) == ("a", "a", "kept")


def test_hugging_face_datasets_map_it() -> None:
    datasets = pytest.importorskip("datasets")
    images = [Image.fromarray(picture(seed)) for seed in range(3)]
    source = datasets.Dataset.from_dict({"image": images, "place": [0, 1, 2]}).cast_column(
        "image", datasets.Image()
    )
    mapped = source.map(labeler(), batched=True, batch_size=2, remove_columns="image")
    assert mapped["place"][:] == [0, 1, 2]
    direct = labeler()({"image": images})
    for row, segments in zip(mapped, direct["segments"], strict=True):
        assert [s["counts"] for s in row["segments"]] == [s["counts"] for s in segments]
