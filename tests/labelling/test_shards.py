# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Shards are whole or not there, go on where they were stopped, and are never mixed with those of another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.predictions import garden

from cmpf.errors import CMPFError, DatasetError
from cmpf.labelling.parquet import read_metadata, read_parquet
from cmpf.labelling.record import ImageRecord, record_of
from cmpf.labelling.shards import CONFIGURATION, LabelFolder

CONFIG: dict[str, Any] = {"model": "cmpf_tiny", "vocabulary": ["cat", "grass"], "min_score": 0.3}


def record(name: str) -> ImageRecord:
    return record_of(garden(), name)


def folder(path: Path, count: int = 2, overwrite: bool = False, **changes: Any) -> LabelFolder:
    return LabelFolder(path, {**CONFIG, **changes}, count=count, overwrite=overwrite)


def test_a_shard_is_a_file_once_it_is_finished(tmp_path: Path) -> None:
    output = folder(tmp_path / "out")
    with output.shard(1) as writer:
        for name in "abc":
            writer.add(record(name))
        assert not list((tmp_path / "out").glob("*.parquet"))
        writer.finish()
    path = tmp_path / "out/part-00001-of-00002.parquet"
    assert output.path(1) == path
    assert [r.uri for r in read_parquet(path)] == ["a", "b", "c"]
    assert read_metadata(path)["vocabulary"] == ["cat", "grass"]
    assert {"cmpf", "shards"} <= read_metadata(path).keys()


@pytest.mark.parametrize("torn", ["", '{"uri": "d", "sha2', '{"uri": "d"'])
def test_a_shard_that_was_stopped_goes_on_after_its_last_whole_record(tmp_path: Path, torn: str) -> None:
    with folder(tmp_path).shard(0) as writer:
        writer.add(record("a"))
        writer.add(ImageRecord("b", "", 0, 0, error="b: empty"))
    with writer.journal.open("a") as file:
        file.write(torn)  # as a kill leaves it
    with folder(tmp_path).shard(0) as again:
        assert (again.finished_uris, again.errors) == ({"a", "b"}, 1)
        for name in "abcd":
            again.add(record(name))  # what is there stays
        again.finish()
    assert [(r.uri, r.error) for r in read_parquet(again.path)] == [
        ("a", ""),
        ("b", "b: empty"),
        ("c", ""),
        ("d", ""),
    ]


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    with folder(tmp_path).shard(0) as writer:
        writer.add(record("a"))
    writer.journal.write_text("no JSON\n")
    with (
        pytest.raises(DatasetError, match=r"part-00000-of-00002.jsonl: not a complete JSON object"),
        folder(tmp_path).shard(0),
    ):
        pass


def test_a_shard_without_images_is_a_file_without_rows(tmp_path: Path) -> None:
    with folder(tmp_path).shard(0) as writer:
        writer.finish()
    assert list(read_parquet(writer.path)) == []


def test_two_processes_do_not_make_one_shard(tmp_path: Path) -> None:
    output = folder(tmp_path)
    with (
        output.shard(0),
        pytest.raises(CMPFError, match=r"part-00000-of-00002.parquet: another process makes this shard"),
        folder(tmp_path).shard(0),
    ):
        pass
    with output.shard(0), output.shard(1):
        pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_score": 0.5}, r"min_score 0.3 there, 0.5 now"),
        ({"vocabulary": ["cat", "sky"]}, r'vocabulary \["grass"\] there, \["sky"\] now'),
        ({"vocabulary": ["grass", "cat"]}, r"vocabulary in another order"),
        ({"count": 3}, r"shards 2 there, 3 now"),
        ({"nms": 0.7}, r"nms null there, 0.7 now"),
    ],
)
def test_another_configuration_is_an_error_that_says_what_differs(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder(tmp_path)
    with pytest.raises(
        CMPFError, match=rf"holds results of another configuration: {message}; give another --output"
    ):
        folder(tmp_path, **changes)
    folder(tmp_path)  # and the first one still fits


def test_overwriting_removes_what_was_written_and_nothing_else(tmp_path: Path) -> None:
    output = folder(tmp_path)
    with output.shard(0) as writer:
        writer.add(record("a"))
        writer.finish()
    with output.shard(1) as writer:
        writer.add(record("b"))
    (tmp_path / "notes.txt").touch()
    (tmp_path / "own.parquet").touch()
    again = folder(tmp_path, min_score=0.5, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {CONFIGURATION, "notes.txt", "own.parquet"}
    with again.shard(1) as writer:
        assert writer.finished_uris == set()


def test_a_folder_of_other_parquet_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").touch()
    for overwrite in (False, True):
        with pytest.raises(CMPFError, match=r"holds Parquet files of something else"):
            folder(tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["train.parquet"]


def test_a_full_disk_is_one_line_and_what_was_kept_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def write(self, line: bytes) -> int:
            return len(line) // 2

        def close(self) -> None:
            pass

    output = folder(tmp_path)
    with output.shard(0) as writer:
        writer.add(record("a"))
    monkeypatch.setattr(Path, "open", lambda self, *arguments, **options: Full())
    with (
        pytest.raises(
            CMPFError, match=r"00002.jsonl: cannot be written .No space left on device.; free disk space"
        ),
        output.shard(1) as writer,
    ):
        writer.add(record("b"))
    monkeypatch.undo()
    assert output.finished_uris(0) == {"a"}


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CMPFError, match=r"file/out: cannot be written .*; give another --output"):
        folder(tmp_path / "file/out")


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / CONFIGURATION).write_text("{")
    with pytest.raises(CMPFError, match=r"_label.json: cannot be read"):
        folder(tmp_path)
    (tmp_path / CONFIGURATION).write_text("[]")
    with pytest.raises(CMPFError, match=r"_label.json: no JSON object"):
        folder(tmp_path)
