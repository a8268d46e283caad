# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Parquet files give back the records that were written, also to other readers."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas
import pyarrow as pa
import pytest
from helpers.predictions import garden
from pyarrow import parquet
from pycocotools import mask as coco_mask

from cmpf.errors import CMPFError, DatasetError
from cmpf.labelling import parquet as own
from cmpf.labelling.parquet import (
    find_parts,
    read_metadata,
    read_parquet,
    record_schema,
    records_to_table,
    write_parquet,
)
from cmpf.labelling.record import ImageRecord, record_of

FAILED = ImageRecord("b.jpg", "", 0, 0, error="b.jpg: the file is empty")
RECORDS = [record_of(garden(), "фото/a.jpg", "ab" * 32), FAILED, record_of(garden(), "c.jpg")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_parquet(tmp_path / "x.parquet", RECORDS, {"model": "cmpf_tiny", "vocabulary": ["cat", "grass"]})
    return tmp_path / "x.parquet"


def test_records_come_back_equal_with_what_made_them(path: Path) -> None:
    assert list(read_parquet(path)) == RECORDS
    assert read_metadata(path) == {"model": "cmpf_tiny", "vocabulary": ["cat", "grass"]}


def test_row_groups_bound_what_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "ROW_GROUP_SIZE", 2)
    assert write_parquet(tmp_path / "x.parquet", iter(RECORDS), {}) == 3
    file = parquet.ParquetFile(tmp_path / "x.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [2, 1]
    assert list(read_parquet(tmp_path / "x.parquet")) == RECORDS


def test_pyarrow_and_pandas_read_it_and_pycocotools_decodes_its_masks(path: Path) -> None:
    assert parquet.read_table(path).to_pylist() == [
        {
            **asdict(r),
            "segments": [{**asdict(s), "bbox": list(s.bbox), "size": list(s.size)} for s in r.segments],
        }
        for r in RECORDS
    ]
    frame = pandas.read_parquet(path)
    assert frame.uri.tolist() == ["фото/a.jpg", "b.jpg", "c.jpg"]
    assert frame.error.tolist()[1] == "b.jpg: the file is empty"
    cat = frame.segments[0][0]
    mask = coco_mask.decode({"size": list(cat["size"]), "counts": cat["counts"]})
    assert np.array_equal(mask.astype(bool), garden().panoptic == 1)
    assert mask.sum() == cat["area"] == 12


def test_a_file_without_rows_can_be_read(tmp_path: Path) -> None:
    assert write_parquet(tmp_path / "x.parquet", [], {}) == 0
    assert list(read_parquet(tmp_path / "x.parquet")) == []
    assert parquet.read_table(tmp_path / "x.parquet").schema.names == record_schema().names


def test_an_error_while_records_are_made_leaves_no_file(tmp_path: Path) -> None:
    def records() -> object:
        yield RECORDS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_parquet(tmp_path / "x.parquet", records(), {})  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_other_damaged_and_missing_files_are_named(tmp_path: Path, path: Path) -> None:
    other = tmp_path / "other.parquet"
    parquet.write_table(pa.table({"uri": ["a"]}), other)
    with pytest.raises(
        DatasetError, match=r"other.parquet: has no column sha256, height, .*give a file of cmpf label"
    ):
        list(read_parquet(other))
    with pytest.raises(
        DatasetError, match=r"other.parquet: a Parquet file, but none that cmpf label has written"
    ):
        read_metadata(other)
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(DatasetError, match=r"x.parquet: no whole Parquet file"):
        list(read_parquet(path))
    path.write_bytes(content[:4] + bytes(200) + content[204:])
    with pytest.raises(DatasetError, match=r"x.parquet: damaged"):
        list(read_parquet(path))
    with pytest.raises(DatasetError, match=r"none.parquet: no such file"):
        list(read_parquet(tmp_path / "none.parquet"))


def test_a_row_that_is_no_record_is_named_by_its_place(tmp_path: Path) -> None:
    table = records_to_table(RECORDS)
    broken = table.set_column(1, "sha256", pa.array([None, "", ""], pa.string()))
    parquet.write_table(broken, tmp_path / "x.parquet")
    with pytest.raises(DatasetError, match=r"x.parquet, row group 0, row 0: sha256 is None"):
        list(read_parquet(tmp_path / "x.parquet"))


def test_the_files_of_a_folder_are_found_in_order(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no Parquet file here; give the output folder of cmpf label"):
        find_parts(tmp_path)
    for name in ("part-00001-of-00002.parquet", "part-00000-of-00002.parquet"):
        write_parquet(tmp_path / name, [], {})
    assert [part.name[:10] for part in find_parts(tmp_path)] == ["part-00000", "part-00001"]
    assert len(find_parts(tmp_path / "part-00001-of-00002.parquet")) == 1


def test_without_pyarrow_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CMPFError, match=r'pip install "cmpf\[label\]"'):
        records_to_table(RECORDS)
