# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import distributed_training as helper
from helpers import dying_process
from helpers.dying_process import die

from cmpf.common import cpu
from cmpf.common.distributed import DistributedProcess, first_host, process_from_environment
from cmpf.engine.launch import launch
from cmpf.errors import ConfigError, TrainingError


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder: Path = tmp_path_factory.mktemp("two_processes")
    assert launch(helper.whole_story, num_processes=2, args=(folder,)) == 0
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """The steps of one process with the whole batch, on one thread as each of two has."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patched:
        torch.set_num_threads(
            1
        )  # another order of sums may turn the sign of a gradient near 0, and AdamW's step
        for module, name in ((helper.matcher, "uniform_points"), (helper.criterion, "uncertain_points")):
            patched.setattr(module, name, getattr(module, name))
        helper.fix_points()
        try:
            return helper.cmpf_steps()
        finally:
            torch.set_num_threads(threads)


def test_losses_are_those_of_one_process_with_the_whole_batch(
    found: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    for run in ("cmpf", "accumulated"):
        for rank in (0, 1):
            for mine, whole in zip(found[rank][run]["losses"], alone["losses"], strict=True):
                assert mine.keys() == whole.keys()
                assert mine == pytest.approx(whole, rel=2e-4)
            assert found[rank][run]["grad_norms"] == pytest.approx(alone["grad_norms"], rel=1e-3)


def test_every_process_has_the_same_weights_in_the_end(found: list[dict[str, Any]]) -> None:
    first, second = (part["cmpf"]["weights"] for part in found)
    assert first == second


def test_frozen_encoders_are_neither_broadcast_nor_trained(found: list[dict[str, Any]]) -> None:
    # The second process was given another pixel mean, by 0.001.
    first, second = (part["cmpf"]["pixel_mean"] for part in found)
    assert second - first == pytest.approx(1e-3, rel=0.1)


def test_a_signal_to_one_process_stops_all_after_the_same_iteration(found: list[dict[str, Any]]) -> None:
    for part in found:
        assert (part["stopped"]["iteration"], part["stopped"]["stopped_by"]) == (3, "SIGTERM")


def test_a_resumed_training_ends_bit_for_bit_like_an_uninterrupted_one(found: list[dict[str, Any]]) -> None:
    for part in found:
        assert part["resumed"].pop("resumed")
        assert not part["whole"].pop("resumed")
        assert part["resumed"] == part["whole"]
    # Each process draws numbers of its own, and yet trains the same weights.
    assert found[0]["whole"]["draw"] != found[1]["whole"]["draw"]
    assert found[0]["whole"]["weights"] == found[1]["whole"]["weights"]


def test_a_parameter_that_no_loss_depends_on_is_named(found: list[dict[str, Any]]) -> None:
    for part in found:
        assert part["unused"].startswith(
            "no loss depends on gate: with several processes, each trained parameter"
        )


def test_processes_agree(found: list[dict[str, Any]]) -> None:
    entered = [part["agreements"].pop("entered")[0] for part in found]
    assert entered[0] < entered[1]
    for part in found:
        assert part["agreements"] == {
            "size": 2,
            "any": [True, False],
            "mean": [1.0, 2.0],  # of 1 and 1, of 0 and 4
            "gathered": [{"rank": 0}, {"rank": 1}],
            "from_main": "of 0",
            "on_main": 0,
            "together": "bad mask (process 1 of 2)",
            "refused": "not here (process 0 of 2)",
            "broadcast": [0.0, 0.0],
        }


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("killed", "process 1: it was killed by SIGKILL (out of memory?); the other processes were ended"),
        ("error", "process 1: the second one gave up; the other processes were ended"),
        ("bug", "process 1: ZeroDivisionError: a bug; the other processes were ended"),
    ],
)
def test_a_process_that_dies_ends_the_others_with_its_own_message(how: str, message: str) -> None:
    started = time.monotonic()
    with pytest.raises(TrainingError, match=re.escape(message)):
        launch(die, num_processes=2, args=(how,))
    assert time.monotonic() - started < 60


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program whose two processes work until they are asked to stop."""
    program = [sys.executable, dying_process.__file__, str(tmp_path)]
    process = subprocess.Popen(program, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    yield process
    process.kill()
    process.wait()


def wait_for(files: Sequence[Path]) -> None:
    deadline = time.monotonic() + 90
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline, (
            f"not written: {[file.name for file in files if not file.exists()]}"
        )
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_request_to_stop_reaches_all_processes_and_is_no_error(
    number: signal.Signals, waiting: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    wait_for([tmp_path / f"{rank}.pid" for rank in (0, 1)])
    waiting.send_signal(number)
    assert waiting.wait(60) == 0
    assert (tmp_path / "0.saved").exists()
    assert (tmp_path / "1.saved").exists()


@pytest.mark.skipif(
    sys.platform != "linux", reason="the system must tell processes of the end of their parent"
)
def test_processes_save_and_end_with_their_parent(waiting: subprocess.Popen[bytes], tmp_path: Path) -> None:
    wait_for([tmp_path / f"{rank}.pid" for rank in (0, 1)])
    waiting.kill()
    wait_for([tmp_path / f"{rank}.saved" for rank in (0, 1)])
    for rank in (0, 1):
        number = int((tmp_path / f"{rank}.pid").read_text())
        wait_until_gone(number)


def is_running(number: int) -> bool:
    """Whether a process is there, and more than the exit code that nobody has asked for yet."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(number: int) -> None:
    deadline = time.monotonic() + 30
    while is_running(number):
        assert time.monotonic() < deadline, f"process {number} is still there"
        time.sleep(0.1)


def test_one_process_is_a_simple_call() -> None:
    assert launch(os.getpid, num_processes=1) == os.getpid()
    assert not torch.distributed.is_initialized()


def test_processes_of_a_machine_share_the_cores_that_they_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    # The only process here of two on its machine, which has 64 cores and gives them 6.
    place = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**place, "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setattr(cpu, "_QUOTA_V2", Path("absent"))
    monkeypatch.setattr(cpu, "_QUOTA_V1", Path("absent"))
    threads = torch.get_num_threads()
    try:
        assert launch(torch.get_num_threads, num_processes=1) == 3
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (
            {"num_processes": 1, "num_machines": 2, "machine_rank": 2},
            r"--machine-rank 2 of --num-machines 2: ranks are 0\.\.1",
        ),
        (
            {"num_processes": 1, "num_machines": 2},
            "--dist-url auto: several machines need tcp://HOST:PORT of machine 0",
        ),
        ({"num_processes": 2, "dist_url": "tcp://localhost"}, "--dist-url tcp://localhost: "),  # no port
    ],
)
def test_numbers_that_make_no_group_are_refused(numbers: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        launch(os.getpid, **numbers)


TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "gpu1",
    "MASTER_PORT": "29500",
}
SLURM = {
    "SLURM_JOB_ID": "41234",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_PROCID": "6",
    "SLURM_LOCALID": "2",
}


def test_without_a_launcher_there_is_no_place() -> None:
    assert process_from_environment({"PATH": "/bin"}) is None


def test_torchrun_gives_a_place() -> None:
    assert process_from_environment(TORCHRUN) == DistributedProcess(
        rank=5, local_rank=1, world_size=8, local_world_size=4, url="env://"
    )


def test_srun_gives_a_place_and_the_first_host_is_where_they_meet() -> None:
    # Port: 20000 + 41234 % 20000 = 21234.
    assert process_from_environment(SLURM) == DistributedProcess(
        rank=6, local_rank=2, world_size=8, local_world_size=4, url="tcp://gpu07:21234"
    )


def test_the_meeting_point_of_a_slurm_job_can_be_chosen() -> None:
    place = process_from_environment({**SLURM, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "5000"})
    assert place is not None
    assert place.url == "tcp://10.0.0.1:5000"


@pytest.mark.parametrize("changes", [{"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_STEP_NUM_TASKS": ""}])
def test_a_single_task_and_a_batch_script_are_no_group(changes: dict[str, str]) -> None:
    environment = {name: value for name, value in {**SLURM, **changes}.items() if value}
    assert process_from_environment(environment) is None


@pytest.mark.parametrize(
    "environment", [{**TORCHRUN, "RANK": "first"}, {k: v for k, v in SLURM.items() if k != "SLURM_PROCID"}]
)
def test_a_broken_environment_is_an_error(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="the environment of torchrun or SLURM is not complete"):
        process_from_environment(environment)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu1", "gpu1"),
        ("gpu[07-09,12],login1", "gpu07"),
        ("a1,b2", "a1"),
        ("node[3,5]-ib", "node3-ib"),
    ],
)
def test_the_first_host_of_slurms_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host
