# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf label on a real local Ray of two CPUs: the rows of one process, in its order."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.labelling import (
    OPTIONS,
    SMALL,
    WORDS,
    expected_records,
    labeler,
    write_pictures,
    written_records,
)

import cmpf.integrations
from cmpf.cli import main
from cmpf.errors import CMPFError
from cmpf.integrations import ray_cluster
from cmpf.integrations.ray import label_on_ray
from cmpf.integrations.ray_cluster import WorkerResources, connected, wait_for_resources, worker_resources
from cmpf.labelling.inputs import Shard, divide
from cmpf.labelling.parquet import find_parts, read_parquet
from cmpf.labelling.record import ImageRecord, to_json
from cmpf.labelling.remote import UnreachableError
from cmpf.labelling.shards import LabelFolder

MODEL = {"model": "cmpf_tiny", "vocabulary": WORDS, **OPTIONS}


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    package = pytest.importorskip("ray")
    with connected(None, cpus=2):
        yield package


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_an_address_without_a_cluster_is_named_at_once(address: str) -> None:
    pytest.importorskip("ray")
    begin = time.monotonic()
    with (
        pytest.raises(
            CMPFError, match=rf"^no Ray cluster at {address} .*; check the address, and that it was"
        ),
        connected(address),
    ):
        pass
    assert time.monotonic() - begin < 30


@pytest.mark.usefixtures("ray")
def test_the_command_gives_the_rows_of_one_process_and_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cmpf.integrations, "Labeler", lambda **options: labeler())  # not that of the workers
    write_pictures(Path("photos"), 14)
    Path("photos/0003b.png").touch()
    Path("photos/0013.png").rename(b"photos/0013-\xff.png".decode("utf-8", "surrogateescape"))
    line = ["label", "photos", "--vocabulary", WORDS, "--output", "out"]
    options = ["--device", "cpu", "--opts", *map(str, SMALL)]
    assert main([*line, "--shards", "4", *options]) == 1
    alone = written_records(Path("out"))
    assert alone == expected_records("photos", 4)
    assert len(alone) == 15
    first, _, third, last = find_parts("out")
    journal = Path("out/_unfinished") / f"{third.stem}.jsonl"
    begun = list(read_parquet(third))
    journal.write_text("".join(f"{to_json(record)}\n" for record in begun[:2]))
    left = len(begun) - 2 + len(list(read_parquet(last)))
    for part in (third, last):  # as a run leaves it that was killed in its third shard
        part.unlink()
    time_of_first = first.stat().st_mtime_ns
    capsys.readouterr()
    main([*line, "--ray", "--workers", "2", *options])
    assert written_records(Path("out")) == alone
    assert first.stat().st_mtime_ns == time_of_first
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if "shards already finished" in line]  # Ray may say more
    assert line.startswith(f"{left} images, ")
    assert "2 shards already finished" in line


@pytest.mark.parametrize(
    ("resources", "workers", "on_gpu", "place"),
    [
        ({"CPU": 2.0}, None, True, WorkerResources(2, 0.75, 0.0)),  # 0.75 * 2 / 2; half a CPU is left to read
        ({"CPU": 1.0}, None, True, WorkerResources(1, 0.75, 0.0)),
        ({"CPU": 2.0}, 6, True, WorkerResources(6, 0.25, 0.0)),
        ({"CPU": 64.0, "GPU": 8.0}, None, True, WorkerResources(8, 1.0, 1.0)),
        ({"CPU": 64.0, "GPU": 8.0}, 16, True, WorkerResources(16, 1.0, 0.5)),
        ({"CPU": 16.0, "GPU": 1.0}, 4, False, WorkerResources(4, 1.0, 0.0)),
        ({}, None, True, WorkerResources(1, 0.0, 0.0)),
    ],
)
def test_workers_leave_cpus_to_read(
    resources: dict[str, float], workers: int | None, on_gpu: bool, place: WorkerResources
) -> None:
    assert worker_resources(resources, workers, on_gpu=on_gpu) == place


def test_a_cluster_without_a_free_place_says_so(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.util.placement_group import placement_group, remove_placement_group

    monkeypatch.setattr(ray_cluster, "START_SECONDS", 1.0)
    other = placement_group([{"CPU": 1.5}])  # another job
    assert other.wait(20)
    begin = time.monotonic()
    with pytest.raises(
        CMPFError,
        match=r"within 1 seconds: one needs .'CPU': 1.0., and free are .* of .'CPU': 2.0.; wait for",
    ):
        wait_for_resources(ray, WorkerResources(2, 0.75, 0.0))
    assert time.monotonic() - begin < 30
    with pytest.raises(CMPFError, match=r"one needs .'CPU': 0.5, 'GPU': 1.0., .*or give fewer --workers"):
        wait_for_resources(ray, WorkerResources(1, 0.25, 1.0))
    remove_placement_group(other)
    monkeypatch.setattr(ray_cluster, "START_SECONDS", 60.0)  # a busy machine frees the resources later
    wait_for_resources(ray, WorkerResources(2, 0.75, 0.0))


@pytest.mark.slow
def test_what_a_reader_or_a_worker_raises_is_one_line(ray: Any, tmp_path: Path) -> None:
    nowhere = Shard(0, 1, (), ("nowhere://bucket/a.tar",), whole=True)
    folder = LabelFolder(tmp_path / "out", {}, count=1)
    with pytest.raises(UnreachableError, match=r"^nowhere://bucket/a.tar: .*Protocol not known"):
        label_on_ray([nowhere], folder, MODEL, workers=1)
    shards = divide([str(write_pictures(tmp_path / "photos", 1))], count=1)
    with pytest.raises(CMPFError, match=r"^a worker: .*model 'nowhere' is unknown"):
        label_on_ray(shards, folder, MODEL | {"model": "nowhere"}, workers=1)


def test_without_ray_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    shards = divide([str(write_pictures(tmp_path / "photos", 1))], count=1)
    with pytest.raises(CMPFError, match=r'--ray needs Ray: pip install "cmpf\[ray\]"'):
        label_on_ray(shards, LabelFolder(tmp_path / "out", {}, count=1), MODEL)


def test_finished_shards_need_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    shards = divide([str(write_pictures(tmp_path / "photos", 1))], count=1)
    folder = LabelFolder(tmp_path / "out", {}, count=1)
    with folder.shard(0) as writer:
        writer.finish()
    label_on_ray(shards, folder, MODEL)


def workers_of_this_process() -> list[int]:
    """Ids of the processes that hold a Labeler and descend from this one."""
    parents: dict[int, int] = {}
    titles: dict[int, bytes] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                titles[int(folder.name)] = (folder / "cmdline").read_bytes()
            except OSError:  # it has ended
                continue

    def is_ours(pid: int) -> bool:
        while pid > 1:
            if pid == os.getpid():
                return True
            pid = parents.get(pid, 0)
        return False

    return [
        pid for pid, title in titles.items() if b"MapWorker(MapBatches(Labeler)" in title and is_ours(pid)
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_five_hundred_images_and_a_killed_worker_give_the_rows_of_one_process(tmp_path: Path) -> None:
    photos = str(write_pictures(tmp_path / "photos", 500))
    folder, shards = LabelFolder(tmp_path / "out", {}, count=4), divide([photos], count=4)
    seen: list[str] = []
    killed: list[int] = []

    def tell(record: ImageRecord) -> None:
        seen.append(record.uri)
        if len(seen) >= 100 and not killed:
            killed.append(workers_of_this_process()[0])
            os.kill(killed[0], signal.SIGKILL)

    label_on_ray(shards, folder, MODEL, workers=2, tell=tell)
    assert len(killed) == 1
    assert len(seen) == 500
    assert written_records(folder.folder) == expected_records(photos, 4)
