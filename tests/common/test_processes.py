# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cmpf.common import processes
from cmpf.common.processes import MAX_DEFAULT_JOBS, default_jobs, map_items, process_pool
from cmpf.errors import DatasetError, ImageError


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
