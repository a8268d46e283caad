# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The labeler for tables and the datasets of other programs."""

from __future__ import annotations

import hashlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pytest
from helpers.labelling import OPTIONS, WORDS, encoded, labeler, picture
from helpers.tiny_model import tiny_model
from PIL import Image

from cmpf.errors import CMPFError, VocabularyError
from cmpf.integrations import Labeler
from cmpf.integrations.fiftyone import fiftyone_model
from cmpf.labelling.inputs import Item
from cmpf.labelling.parquet import record_schema, table_to_records
from cmpf.labelling.record import record_of
from cmpf.predictor import Predictor


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
    first, second, third = table_to_records(labels)
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


@pytest.fixture
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {
        name: type(name, (SimpleNamespace,), {}) for name in ("Detection", "Detections", "Segmentation")
    }
    fiftyone = ModuleType("fiftyone")
    vars(fiftyone).update(labels, Model=type("Model", (), {}))
    monkeypatch.setitem(sys.modules, "fiftyone", fiftyone)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(model=tiny_model("no_ensemble"), short_side=64, max_side=128, mask_ensemble=None)


@pytest.mark.usefixtures("_host")
def test_a_sample_gets_detections_and_a_segmentation(predictor: Predictor) -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    model = fiftyone_model(predictor, ["red circle", "unicorn"], min_score=0.0)
    assert (model.media_type, model.ragged_batches, model.transforms, model.preprocess) == (
        "image", True, None, False,
    )  # fmt: skip
    sample = {"filepath": "a.png"} | model.predict(image)  # as dataset.apply_model does with each sample
    expected = predictor.predict(image, ["red circle", "unicorn"], min_score=0)
    assert np.array_equal(sample["semantic"].mask, expected.semantic + 1)
    assert model.mask_targets == {1: "red circle", 2: "unicorn"}
    detections = sample["instances"].detections
    assert len(detections) == len(expected.instances) > 0
    for detection, mask in zip(detections, expected.instances.masks, strict=True):
        x, y, width, height = detection.bounding_box  # shares of the image
        left, top = round(x * 56), round(y * 40)
        right, bottom = left + round(width * 56), top + round(height * 40)
        assert np.array_equal(detection.mask, mask[top:bottom, left:right])
        assert detection.mask.sum() == mask.sum()
        assert detection.label in ("red circle", "unicorn")
        assert 0 <= detection.confidence <= 1


@pytest.mark.usefixtures("_host")
def test_other_words_may_be_set(predictor: Predictor) -> None:
    model = fiftyone_model(predictor, ["cat"])
    model.set_class_names(["dog", "bird, parrot"])
    assert model.mask_targets == {1: "dog", 2: "bird"}


def test_without_fiftyone_the_command_that_installs_it_is_named(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(CMPFError, match="pip install fiftyone"):
        fiftyone_model(predictor, ["cat"])


URIS = [f"{seed}.png" for seed in range(5)]
IMAGES = [encoded(seed) for seed in range(4)] + [b"no image"]


def check(rows: list[dict[str, Any]]) -> None:
    """They are what one process finds."""
    direct = labeler()({"image": IMAGES, "uri": URIS})
    rows = sorted(rows, key=lambda row: row["uri"])
    assert [row["uri"] for row in rows] == URIS
    assert [bool(row["error"]) for row in rows] == [False] * 4 + [True]
    for row, segments in zip(rows, direct["segments"], strict=True):
        assert [s["counts"] for s in row["segments"]] == [s["counts"] for s in segments]
        assert [s["score"] for s in row["segments"]] == [s["score"] for s in segments]


@pytest.mark.filterwarnings("ignore")
def test_a_data_frame_of_daft_gets_labels() -> None:
    daft = pytest.importorskip("daft")
    row = daft.DataType.struct(
        {field.name: daft.DataType.from_arrow_type(field.type) for field in record_schema()}
    )

    @daft.cls(max_concurrency=1)
    class Labels:
        def __init__(self) -> None:
            self.labeler = Labeler("cmpf_tiny", WORDS, **OPTIONS)

        @daft.method.batch(return_dtype=row, unnest=True, batch_size=2)
        def label(self, image: Any, uri: Any) -> Any:
            table = self.labeler({"image": image.to_pylist(), "uri": uri.to_pylist()})
            return [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]

    frame = daft.from_pydict({"image": IMAGES, "uri": URIS})
    check(frame.select(Labels().label(frame["image"], frame["uri"])).to_pylist())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_data_frame_of_spark_gets_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyspark")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    from pyspark.sql import SparkSession
    from pyspark.sql.pandas.types import from_arrow_schema

    def label(frames: Iterator[pandas.DataFrame]) -> Iterator[pandas.DataFrame]:
        labels = Labeler("cmpf_tiny", WORDS, **OPTIONS)
        for frame in frames:
            yield pandas.DataFrame(labels(frame.to_dict("list")))

    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.sql.execution.arrow.pyspark.enabled", "true").getOrCreate()
    try:
        images = spark.createDataFrame(list(zip(IMAGES, URIS, strict=True)), "image binary, uri string")
        labels = images.mapInPandas(label, from_arrow_schema(record_schema()))
        check([row.asDict(recursive=True) for row in labels.collect()])
    finally:
        spark.stop()
