# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf label into buckets: shards appear whole, and a run goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from helpers.labelling import SMALL, WORDS, expected_records, labeler, write_pictures
from pyarrow import parquet

import cmpf.integrations
from cmpf.cli import main
from cmpf.labelling import remote
from cmpf.labelling.parquet import table_to_records
from cmpf.labelling.record import ImageRecord
from cmpf.weights.download import cache_folder

OPTIONS = ("--vocabulary", WORDS, "--device", "cpu", "--opts", *map(str, SMALL))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real model, loaded once, no pauses before a read or write is tried again, and a cache of each test's own."""
    labeler()
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cmpf.integrations, "Labeler", lambda **options: labeler())
    monkeypatch.setattr(remote, "RETRY_DELAYS", (0.0, 0.0))


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    """A place in memory of a test's own."""
    address = f"memory://{tmp_path.name}/labels"
    yield address
    system, path = fsspec.core.url_to_fs(address)
    if system.exists(path):
        system.rm(path, recursive=True)


def label(*arguments: str | Path) -> int:
    return main(["label", *map(str, arguments), *OPTIONS])


def files(address: str) -> list[str]:
    system, path = fsspec.core.url_to_fs(address)
    system.invalidate_cache()
    return sorted(str(name).removeprefix(f"{path}/") for name in system.find(path))


def records(address: str) -> list[ImageRecord]:
    found: list[ImageRecord] = []
    for name in files(address):
        if name.endswith(".parquet"):
            with fsspec.open(f"{address}/{name}") as file:
                found += table_to_records(parquet.read_table(file))
    return sorted(found, key=lambda record: record.uri)


def left_here() -> list[str]:
    """Files of shards in the cache of this machine."""
    return [
        path.name for path in (cache_folder() / "label").rglob("*") if path.suffix in (".parquet", ".jsonl")
    ]


def test_shards_go_into_a_bucket_and_done_ones_are_skipped(
    tmp_path: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_pictures(tmp_path / "photos", 5)
    assert label(photos, "--output", bucket, "--shard", "1/2") == 0
    assert files(bucket) == ["_label.json", "part-00001-of-00002.parquet"]
    assert label(photos, "--output", f"{bucket}/") == 0  # the other one
    said = capsys.readouterr().out
    assert f"1 shard already finished -> {bucket}\n" in said
    assert records(bucket) == expected_records(photos)
    assert left_here() == []
    assert label(photos, "--output", bucket) == 0
    assert capsys.readouterr().out == f"0 images, 2 shards already finished -> {bucket}\n"
    assert label(photos, "--output", bucket, "--min-score", "0.9") == 1
    error = capsys.readouterr().err
    assert f"{bucket} holds results of another configuration: min_score null there, 0.9 now" in error
    assert label(photos, "--output", bucket, "--min-score", "0.9", "--overwrite", "--shards", "1") == 0
    assert files(bucket) == ["_label.json", "part-00000-of-00001.parquet"]


def test_a_shard_that_could_not_be_brought_there_is_brought_by_the_next_run(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, move = write_pictures(tmp_path / "photos", 3), MemoryFileSystem.mv

    def full(self: Any, source: str, target: str, **options: Any) -> None:
        if target.endswith(".parquet"):
            raise OSError("the quota is used up")
        move(self, source, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "mv", full)
        assert label(photos, "--output", bucket) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"cmpf: {bucket}: cannot be written (OSError: the quota is used up)")
    assert "part-00000-of-00001.parquet" not in files(bucket)
    assert left_here() == ["part-00000-of-00001.parquet"]
    (killed,) = (cache_folder() / "label").glob("*/part-*.parquet")
    killed.with_name(".tmp-1-2-part-00000-of-00001.parquet").write_bytes(b"PAR1")  # as after kill -9
    assert label(photos, "--output", bucket) == 0
    assert capsys.readouterr().out == f"0 images, 1 shard already finished -> {bucket}\n"
    assert records(bucket) == expected_records(photos)
    assert files(bucket) == ["_label.json", "part-00000-of-00001.parquet"]


def test_what_was_begun_for_a_bucket_that_was_emptied_since_is_no_part_of_the_next_run(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, whole = write_pictures(tmp_path / "photos", 3), type(labeler()).records

    def stopped(self: Any, items: Any) -> Iterator[ImageRecord]:
        yield next(iter(whole(self, items)))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(labeler()), "records", stopped)
        assert label(photos, "--output", bucket) == 1
    assert left_here() == ["part-00000-of-00001.jsonl"]
    fsspec.core.url_to_fs(bucket)[0].rm(fsspec.core.url_to_fs(bucket)[1], recursive=True)
    assert (
        label(photos, "--output", bucket, "--min-score", "0.5") == 0
    )  # another configuration than that of before
    assert len(records(bucket)) == 3


def test_results_do_not_go_among_the_images_nor_into_the_web(
    tmp_path: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert label("memory://photos/", "--output", "memory://photos/labels") == 1
    assert "the output is inside the input" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        label(tmp_path, "--output", "https://example.com/labels")
    assert "give a folder or a bucket" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["label", "export", str(tmp_path), "--format", "coco", "--output", bucket])
    assert "a dataset is written into a folder" in capsys.readouterr().err


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server that speaks S3's protocol, with one empty bucket."""
    s3fs = pytest.importorskip("s3fs", reason="pip install s3fs")
    server_module = pytest.importorskip("moto.server", reason='pip install "moto[server]"')
    server = server_module.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (("ENDPOINT_URL", f"http://{host}:{port}"), ("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"),
                        ("DEFAULT_REGION", "us-east-1")):  # fmt: skip
        monkeypatch.setenv(f"AWS_{name}", value)
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem()
    system.mkdir("bucket")
    yield system
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_server_that_speaks_s3_has_the_images_and_gets_the_labels(
    tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_pictures(tmp_path / "photos", 4)
    s3.put(f"{photos}/", "bucket/photos/", recursive=True)
    address = "s3://bucket/labels"
    assert label("s3://bucket/photos/", "--output", address, "--shards", "2") == 0
    assert files(address) == ["_label.json", "part-00000-of-00002.parquet", "part-00001-of-00002.parquet"]
    found = records(address)
    assert [record.uri for record in found] == [f"s3://bucket/photos/{n:04}.png" for n in range(4)]
    assert [record.segments for record in found] == [record.segments for record in expected_records(photos)]
    capsys.readouterr()
    assert label("s3://bucket/photos/", "--output", address) == 0
    assert capsys.readouterr().out == f"0 images, 2 shards already finished -> {address}\n"
    assert label(photos, "--output", "s3://nowhere/labels") == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cmpf: ")]
    assert error.startswith("cmpf: s3://nowhere/labels: cannot be written")

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    type(s3).clear_instance_cache()
    assert label(photos, "--output", address) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"cmpf: {address}: cannot be reached")
    assert os.environ["AWS_ENDPOINT_URL"] in error
