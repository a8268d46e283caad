# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The examples of docs/labelling.md for Daft and Spark, where these are installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pandas
import pytest
from helpers.labelling import OPTIONS, WORDS, encoded, labeler

from cmpf.integrations import Labeler
from cmpf.labelling.parquet import record_schema

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
