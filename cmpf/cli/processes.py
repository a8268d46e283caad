# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The options that say how many processes train or evaluate, and on which device."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from cmpf.config import Config
from cmpf.engine.launch import launch
from cmpf.errors import ConfigError
from cmpf.factory.encoders import build_device

DEFAULTS = {"num_machines": 1, "machine_rank": 0, "dist_url": "auto"}


def in_processes(
    function: Callable[[argparse.Namespace, Config], int], arguments: argparse.Namespace, cfg: Config
) -> int:
    """Calls `function(arguments, cfg)` in as many processes as the command line asks for, or torchrun or srun made.

    Args:
        arguments: num_gpus (None or a number), num_processes (None or a number), num_machines, machine_rank, dist_url.
        cfg: made with device_overrides(arguments).
    """
    device = build_device(cfg).type
    return launch(
        function,
        num_processes=(arguments.num_gpus if device == "cuda" else arguments.num_processes) or 1,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(arguments, cfg),
        device=device,
    )


def device_overrides(arguments: argparse.Namespace) -> list[str]:
    """KEY VALUE for a number of GPUs; none given leaves the choice to MODEL.DEVICE.

    Raises:
        ConfigError: more GPUs than there are, or CPU processes on a GPU.
    """
    gpus, processes = arguments.num_gpus, arguments.num_processes
    if processes is not None and processes < 1:
        raise ConfigError(f"--num-processes {processes}: at least 1 is needed")
    if processes is not None and gpus:
        raise ConfigError(
            f"--num-processes {processes} is for the CPU, and --num-gpus {gpus} already starts one process per GPU; "
            "give one of them"
        )
    if processes is not None:
        return ["MODEL.DEVICE", "cpu"]
    if gpus is None:
        return []
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not 0 <= gpus <= here:
        found = "there is no CUDA device here" if here == 0 else f"{here} CUDA devices are here"
        raise ConfigError(f"--num-gpus {gpus}: {found}; use --num-gpus 0 for the CPU")
    return ["MODEL.DEVICE", "cuda" if gpus else "cpu"]


def process_flags(arguments: argparse.Namespace) -> list[str]:
    """The same options again, as far as they were given."""
    given = {name: getattr(arguments, name) for name in ("num_gpus", "num_processes", *DEFAULTS)}
    return [
        part
        for name, value in given.items()
        if value is not None and value != DEFAULTS.get(name)
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
