# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest

from cmpf.engine.cluster import Place, first_host, place_from_environment
from cmpf.errors import ConfigError

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
    assert place_from_environment({"PATH": "/bin"}) is None


def test_torchrun_gives_a_place() -> None:
    assert place_from_environment(TORCHRUN) == Place(
        rank=5, local_rank=1, world_size=8, local_world_size=4, url="env://"
    )


def test_srun_gives_a_place_and_the_first_host_is_where_they_meet() -> None:
    # Port: 20000 + 41234 % 20000 = 21234.
    assert place_from_environment(SLURM) == Place(
        rank=6, local_rank=2, world_size=8, local_world_size=4, url="tcp://gpu07:21234"
    )


def test_the_meeting_point_of_a_slurm_job_can_be_chosen() -> None:
    place = place_from_environment({**SLURM, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "5000"})
    assert place is not None
    assert place.url == "tcp://10.0.0.1:5000"


@pytest.mark.parametrize("changes", [{"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_STEP_NUM_TASKS": ""}])
def test_a_single_task_and_a_batch_script_are_no_group(changes: dict[str, str]) -> None:
    environment = {name: value for name, value in {**SLURM, **changes}.items() if value}
    assert place_from_environment(environment) is None


@pytest.mark.parametrize(
    "environment", [{**TORCHRUN, "RANK": "first"}, {k: v for k, v in SLURM.items() if k != "SLURM_PROCID"}]
)
def test_a_broken_environment_is_an_error(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="the environment of torchrun or SLURM is not complete"):
        place_from_environment(environment)


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
