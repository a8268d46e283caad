# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A folder of results remembers what is finished, whatever happened to the run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from helpers.predictions import garden

from cmpf.errors import CMPFError, DatasetError
from cmpf.labelling import journal
from cmpf.labelling.journal import Entry, ResultsFolder
from cmpf.labelling.record import ImageRecord, record_of


def entry(name: str, error: str = "") -> Entry:
    uri = f"/photos/{name}.jpg"
    record = ImageRecord(uri, "", 0, 0, error=error) if error else record_of(garden(), uri)
    return Entry(record, f"{name}.jpg", name)


def test_what_was_finished_is_there_again_each_image_once(tmp_path: Path) -> None:
    with ResultsFolder.opened(tmp_path / "out") as results:
        results.add(entry("a"), [tmp_path / "out/a.jpg"])
        results.add(entry("b", "b.jpg: damaged"), [])
    with ResultsFolder.opened(tmp_path / "out") as results:
        assert results.done == {"/photos/a.jpg": "", "/photos/b.jpg": "b.jpg: damaged"}
        results.add(entry("b"), [])  # it could be read this time
        assert list(results.entries()) == [entry("a"), entry("b")]
        assert results.name("/photos/a.jpg", "other") == "a"
        assert results.name("/more/A.jpg", "A") == "A_2"


def test_datasets_do_not_depend_on_which_image_was_finished_first(tmp_path: Path) -> None:
    with ResultsFolder.opened(tmp_path) as results:
        for name in ("c", "a", "d", "b"):
            results.add(entry(name), [])
        assert list(results.entries()) == [entry(name) for name in "abcd"]


def test_an_overlay_and_the_thumbnail_of_another_image_are_two_files(tmp_path: Path) -> None:
    with ResultsFolder.opened(tmp_path) as results:
        assert results.name("/photos/thumbnails/a.png", "thumbnails/a") == "thumbnails/a"
        assert results.name("/photos/a.png", "a") == "a_2"  # thumbnails/a.jpg is the overlay of the other one
        assert results.name("/photos/b.png", "b") == "b"
        assert results.name("/photos/thumbnails/b.png", "thumbnails/b") == "thumbnails/b_2"


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_line_that_was_cut_off_is_done_again(tmp_path: Path, cut: int) -> None:
    with ResultsFolder.opened(tmp_path) as results:
        results.add(entry("a"), [])
        results.add(entry("b"), [])
    os.truncate(results.journal, results.journal.stat().st_size - cut)
    with ResultsFolder.opened(tmp_path) as results:
        assert list(results.done) == ["/photos/a.jpg"]
        results.add(entry("b"), [])
        assert list(results.entries()) == [entry("a"), entry("b")]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    with ResultsFolder.opened(tmp_path) as results:
        results.add(entry("a"), [])
    results.journal.write_text('{"uri": 3}\n')
    with (
        pytest.raises(DatasetError, match=r"journal.jsonl, line 1: damaged .*--overwrite begins anew"),
        ResultsFolder.opened(tmp_path),
    ):
        pass


def test_two_runs_into_one_folder_are_one_too_many(tmp_path: Path) -> None:
    with (
        ResultsFolder.opened(tmp_path),
        pytest.raises(CMPFError, match="another run writes into this folder"),
        ResultsFolder.opened(tmp_path),
    ):
        pass


def test_another_configuration_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    with ResultsFolder.opened(tmp_path) as results:
        results.save_configuration({"min_score": 0.3, "vocabulary": ["cat"]}, {"request": 1})
        assert results.has_request({"request": 1})
        results.save_configuration({"min_score": 0.3, "vocabulary": ["cat"]}, {"request": 2})
        assert not results.has_request({"request": 1})
        with pytest.raises(
            CMPFError,
            match=r'min_score 0.3 there, 0.5 now, vocabulary \["cat"\] there, \["dog"\] now; give another --output, or '
            "--overwrite",
        ):
            results.save_configuration({"min_score": 0.5, "vocabulary": ["dog"]}, {})


def test_overwrite_removes_what_the_journal_names_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("out/a.jpg", "out/mine.jpg", "outside.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with ResultsFolder.opened(out) as results:
        results.save_configuration({"min_score": 0.3}, {})
        results.add(entry("a"), [out / "a.jpg", tmp_path / "outside.jpg"])
        (out / "labels.parquet").touch()
        (out / ".tmp-12-34-labels.parquet").touch()  # of a killed run
        results.save_dataset_files("parquet", [out / "labels.parquet"])
        assert results.dataset_files("parquet") == [out / "labels.parquet"]
    with ResultsFolder.opened(out, overwrite=True) as results:
        assert results.done == {}
        assert (out / "a.jpg").exists()
        results.remove_files()
        # The new journal may be as long as the old one.
        results.add(entry("a"), [out / "a.jpg", tmp_path / "outside.jpg"])
        assert results.dataset_files("parquet") is None
        results.save_configuration({"min_score": 0.9}, {})
    assert sorted(path.name for path in out.iterdir()) == [".cmpf", "mine.jpg"]
    assert (tmp_path / "outside.jpg").exists()


def test_a_full_disk_takes_back_the_line_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ResultsFolder.opened(tmp_path) as results:
        results.add(entry("a"), [])
        monkeypatch.setattr(journal, "to_json", lambda record: "{" + "x" * 10**6)

        class Full:
            """The file of a disk with room for ten bytes."""

            def write(self, line: bytes) -> int:
                with results.journal.open("ab") as file:
                    return file.write(line[:10])

            def close(self) -> None: ...

        results._file._file = Full()  # type: ignore[assignment]
        with pytest.raises(
            CMPFError, match=r"cannot be written \(No space left on device\); free disk space"
        ):
            results.add(entry("b"), [])
    with ResultsFolder.opened(tmp_path) as results:
        assert list(results.done) == ["/photos/a.jpg"]


def test_a_folder_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(CMPFError, match=r"file/out: cannot be written .*; give another --output"),
        ResultsFolder.opened(tmp_path / "file/out"),
    ):
        pass


def test_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    strange = os.fsdecode(b"caf\xe9")
    with ResultsFolder.opened(tmp_path) as results:
        results.add(entry(strange), [])
    with ResultsFolder.opened(tmp_path) as results:
        assert list(results.entries()) == [entry(strange)]
        assert json.loads(json.dumps(list(results.done))) == [f"/photos/{strange}.jpg"]
