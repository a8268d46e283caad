# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Handles --num-gpus, --num-processes and the other options for distributed training and evaluation."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from cmpf.common.tensors import find_device
from cmpf.config import Config
from cmpf.engine.launch import launch
from cmpf.errors import ConfigError

DEFAULTS = {"num_machines": 1, "machine_rank": 0, "dist_url": "auto"}


def in_processes(
    function: Callable[[argparse.Namespace, Config], int], arguments: argparse.Namespace, cfg: Config
) -> int:
    """Calls `function(arguments, cfg)` in each process; starts the processes unless torchrun or srun has done so.

    Args:
        arguments: with num_gpus and num_processes (a number or None), num_machines, machine_rank and dist_url.
        cfg: built with device_overrides(arguments).
    Returns:
        The result of `function` in this process; see cmpf.engine.launch.launch.
    """
    device = find_device(cfg.MODEL.DEVICE).type
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
    """Overrides of MODEL.DEVICE, keys and values in turn; empty if neither option is given.

    Raises:
        ConfigError: more GPUs than available, or --num-processes together with --num-gpus.
    """
    gpus, processes = arguments.num_gpus, arguments.num_processes
    if processes is not None and gpus:
        raise ConfigError(
            f"--num-processes {processes} is for the CPU, and --num-gpus {gpus} already starts one process per GPU; "
            "give one of them"
        )
    if processes is None and gpus is None:
        return []
    check_gpus(gpus)
    return ["MODEL.DEVICE", "cuda" if gpus else "cpu"]


def check_gpus(count: int | None) -> None:
    """Raises ConfigError if --num-gpus asks for more GPUs than there are."""
    available = torch.cuda.device_count()
    if count and count > available:
        found = "there is no CUDA device here" if available == 0 else f"{available} CUDA devices are here"
        raise ConfigError(f"--num-gpus {count}: {found}; use --num-gpus 0 for the CPU")


def process_flags(arguments: argparse.Namespace) -> list[str]:
    """The options that were given, as command line arguments."""
    values = {name: getattr(arguments, name) for name in ("num_gpus", "num_processes", *DEFAULTS)}
    return [
        part
        for name, value in values.items()
        if value is not None and value != DEFAULTS.get(name)
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
