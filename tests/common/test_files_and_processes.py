# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Files that are whole or not there, and work for several processes."""

from __future__ import annotations

import errno
import gc
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cmpf.common import cpu, distributed, processes
from cmpf.common.cpu import available_memory, gc_disabled, usable_cores
from cmpf.common.files import folder_images, replacing
from cmpf.common.processes import MAX_DEFAULT_JOBS, default_jobs, map_items, process_pool
from cmpf.errors import DatasetError, ImageError, TrainingError


def inverse(value: int) -> float:
    if value == 2:
        raise ImageError("two.png: damaged")
    if value == 3:
        raise OSError("cannot read")
    if value == 4:
        raise ValueError("odd")
    return 1 / value


def full_disk(value: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def die(value: int) -> None:
    os._exit(1)


def bug(value: int) -> None:
    raise KeyError("bug")


@pytest.mark.parametrize("jobs", [1, 2, 50])
def test_results_are_in_order_and_errors_belong_to_their_item(jobs: int) -> None:
    results = map_items(inverse, [1, 2, 3, 4, 5], jobs=jobs, title="inverse", damaged=(OSError, ValueError))
    assert [result.value for result in results] == [1.0, None, None, None, 0.2]
    assert [result.error for result in results] == [
        None,
        "two.png: damaged",
        "OSError: cannot read",
        "ValueError: odd",
        None,
    ]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_full_disk_ends_the_work(jobs: int) -> None:
    with pytest.raises(DatasetError, match=r"labels: .*No space left on device; make room"):
        map_items(full_disk, [1, 2, 3], jobs=jobs, title="labels", damaged=(OSError,))


@pytest.mark.parametrize("jobs", [1, 2])
def test_errors_of_the_script_itself_are_not_taken_for_damage(jobs: int) -> None:
    with pytest.raises(KeyError):
        map_items(bug, [1, 2, 3], jobs=jobs, title="labels")


def test_a_process_that_dies_ends_the_work() -> None:
    with pytest.raises(DatasetError, match=r"a process died, perhaps for lack of memory.*fewer --jobs"):
        map_items(die, [1, 2, 3], jobs=2, title="labels")


def test_nothing_to_do_gives_nothing() -> None:
    assert map_items(inverse, [], jobs=4, title="inverse") == []


def test_default_jobs_are_the_usable_cores_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "usable_cores", lambda: 200)
    assert default_jobs() == MAX_DEFAULT_JOBS
    monkeypatch.setattr(processes, "usable_cores", lambda: 1)
    assert default_jobs() == 1


def handles_interrupts(_: int) -> bool:
    return signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


def test_ctrl_c_is_left_to_the_parent() -> None:
    with process_pool(1) as pool:
        assert list(pool.map(handles_interrupts, [0])) == [False]
    assert handles_interrupts(0)


PARENT = """
import multiprocessing, sys, time
from cmpf.common.processes import process_pool

def main():
    with process_pool(1) as pool:
        print(pool.submit(__import__("os").getpid).result(), flush=True)
        time.sleep(60)

if __name__ == "__main__":
    main()
"""


def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 20
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


WORK = """
import sys, time
from pathlib import Path
from cmpf.common.files import write_text
from cmpf.common.processes import map_items

def slow(path):
    time.sleep(0.02)
    write_text(path, "x" * 100_000)

def main():
    paths = [Path(sys.argv[1], f"{number}.txt") for number in range(2000)]
    try:
        map_items(slow, paths, jobs=2, title="texts")
    except KeyboardInterrupt:
        print("stopped")

if __name__ == "__main__":
    main()
"""


def test_ctrl_c_leaves_whole_files_and_no_traceback(tmp_path: Path) -> None:
    script, made = tmp_path / "work.py", tmp_path / "made"
    script.write_text(WORK)
    made.mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, str(script), str(made)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(made.glob("[0-9]*.txt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, error = process.communicate(timeout=60)
    assert (out, error, process.returncode) == ("stopped\n", "", 0)
    files = list(made.iterdir())
    assert 0 < len(files) < 2000
    assert {path.stat().st_size for path in files} == {100_000}


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# In a single process nothing needs an agreement; two of them agree in test_launch.py.
def test_a_single_process_is_the_first_of_one() -> None:
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
    assert distributed.is_main()
    assert not distributed.is_parallel()


def test_a_single_process_agrees_with_itself() -> None:
    values = torch.tensor([1.0, 2.0])
    distributed.barrier()
    distributed.broadcast_tensors([values])
    assert distributed.all_reduce_mean(values) is values
    assert distributed.gather("a") == ["a"]
    assert distributed.from_main("a") == "a"
    assert distributed.on_main(lambda: None) is None
    assert [distributed.any_process(flag) for flag in (True, False)] == [True, False]
    with distributed.main_first():
        pass


def test_a_single_process_raises_its_own_error() -> None:
    error = TrainingError("bad mask")
    distributed.raise_together(None)
    with pytest.raises(TrainingError, match=r"^bad mask$") as caught:
        distributed.raise_together(error)
    assert caught.value is error


def container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str) -> None:
    """Takes the place of the control group's file."""
    file = tmp_path / "cpu.max"
    file.write_text(limit)
    monkeypatch.setattr(cpu, "_QUOTA_V2", file)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_a_process_bound_to_one_core_counts_one() -> None:
    core = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{core}}})\n"
        "from cmpf.common.cpu import usable_cores; print(usable_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("max 100000", 8),
        ("250000 100000", 3),  # two and a half cores keep three processes busy
        ("50000 100000", 1),
        ("1600000 100000", 8),  # more than the affinity allows
        ("nonsense", 8),
    ],
)
def test_the_quota_of_a_container_counts(
    limit: str, cores: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    container(monkeypatch, tmp_path, limit)
    assert usable_cores() == cores


def test_without_affinity_and_container_all_cores_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("_QUOTA_V2", "_QUOTA_V1"):
        monkeypatch.setattr(cpu, name, tmp_path / "absent")
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    assert usable_cores() == 12
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert usable_cores() == 1


@pytest.mark.parametrize(
    ("limit", "used", "cached", "available"),
    [
        ("max", "0", 0, 3 * 2**20),
        ("5000000", "4000000", 0, 1_000_000),
        ("5000000", "6000000", 0, 0),
        ("5000000", "4900000", 2_000_000, 2_100_000),  # the page cache fills a container's memory
    ],
)
def test_available_memory_is_what_the_system_and_the_container_leave(
    limit: str, used: str, cached: int, available: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, content in (
        ("meminfo", "MemTotal: 9000 kB\nMemAvailable: 3072 kB\nHugePages_Total: 0\n"),
        ("memory.max", limit),
        ("memory.current", used),
        ("memory.stat", f"file 3000000\ninactive_file {cached}\n"),
    ):
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(cpu, "_MEMORY_INFO", tmp_path / "meminfo")
    monkeypatch.setattr(cpu, "_CGROUP_V2", tmp_path)
    assert available_memory() == available
    monkeypatch.setattr(cpu, "_MEMORY_INFO", tmp_path / "absent")
    monkeypatch.setattr(cpu, "_CGROUP_V2", tmp_path / "absent")
    assert available_memory() == 2**62


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_is_collected_while_a_model_is_built_and_what_was_built_is_left_out_afterwards(
    enabled: bool,
) -> None:
    assert gc.isenabled()
    if not enabled:
        gc.disable()
    try:
        frozen = gc.get_freeze_count()
        with gc_disabled(), gc_disabled():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
        assert gc.get_freeze_count() > frozen + 1000
    finally:
        gc.enable()
        gc.unfreeze()


FRESH_PAGES = """
import resource, sys, torch
from cmpf.common import cpu

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.full((1 << 24,), 1.0)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

usual = [faults() for _ in range(3)][-1]
cpu.keep_freed_memory()
kept = [faults() for _ in range(16)][-1]  # glibc reuses memory only after six or seven tensors
held = resident()
cpu.release_memory()
print(usual, kept, held - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="options of glibc, which other systems do not have")
def test_kept_memory_serves_the_next_tensor_without_fresh_pages_and_can_be_released() -> None:
    done = subprocess.run([sys.executable, "-c", FRESH_PAGES], capture_output=True, text=True, check=True)
    usual, kept, released = map(int, done.stdout.split())
    pages = (64 << 20) // resource.getpagesize()
    assert usual > 0.9 * pages
    assert kept < 0.01 * pages
    assert released > 60 << 20


def test_a_file_appears_whole_and_leaves_no_temporary_one(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.json") as temporary:
        assert temporary.suffix == ".json"
        temporary.write_text("new")
        assert not (tmp_path / "a.json").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def write_half_and_raise(path: Path, error: BaseException) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stop"):
        write_half_and_raise(path, RuntimeError("stop"))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_ctrl_c_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_half_and_raise(path, KeyboardInterrupt())
    assert path.read_text() == "old"


@pytest.mark.parametrize("name", ["a" * 251 + ".pth", "\u00e4" * 125 + ".json", "b." + "c" * 253])
def test_names_as_long_as_a_file_system_allows_can_be_written(tmp_path: Path, name: str) -> None:
    with replacing(tmp_path / name) as temporary:
        assert temporary.suffix == Path(name).suffix or len(temporary.name) < 255
        temporary.write_text("new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, "new")]


def test_a_folder_means_its_images_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "deep/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in folder_images(tmp_path)] == ["a.JPG", "b.png"]
    (tmp_path / ".checkpoints").mkdir()
    (tmp_path / ".checkpoints/b.png").touch()
    assert [path.name for path in folder_images(tmp_path, recursive=True)] == ["a.JPG", "b.png", "c.webp"]
    (tmp_path / "deep/deeper").mkdir()
    with pytest.raises(ImageError, match="deeper: no image in this folder"):
        folder_images(tmp_path / "deep/deeper")
