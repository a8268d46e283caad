# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Implements cmpf train and cmpf eval: builds the configuration and starts the processes, which run experiment_run.

Nothing here imports a model or its libraries: a process that only starts others does not need them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cmpf import factory
from cmpf.cli.datasets import dataset_name
from cmpf.cli.deferred_import import import_libraries
from cmpf.cli.processes import device_overrides, in_processes
from cmpf.config import Config, get_cfg
from cmpf.engine.checkpoints import last_weights
from cmpf.errors import ConfigError
from cmpf.weights.hub import find_model, weights_place

EVALUATIONS = Path("output/eval")  # default output folder of `cmpf eval --model`


def run(arguments: argparse.Namespace) -> int:
    """Trains or evaluates, in one or several processes.

    Args:
        arguments: parsed by one of the parsers of cmpf.cli.train; `program` is the command that resumes the run.
    Returns:
        Exit code: 0 if the run has finished, or was stopped by a signal with everything saved; for a dry run, 1 if
        something is missing.
    """
    cfg = configuration(arguments)  # reports errors before processes are started
    if arguments.dry_run:
        from cmpf.cli import dry_run

        return dry_run.run(cfg, eval_only=arguments.eval_only)
    return in_processes(run_process, arguments, cfg)


def run_process(arguments: argparse.Namespace, cfg: Config) -> int:
    """Trains or evaluates in one process, see experiment_run."""
    import_libraries()
    from cmpf.cli import experiment_run

    return experiment_run.run(arguments, cfg)


def as_eval_only(arguments: argparse.Namespace) -> argparse.Namespace:
    """Converts the arguments of `cmpf eval` to those of tools/train_net.py.

    Raises:
        ModelNameError: --model is neither a name of the zoo nor a folder.
        WeightsError: the weights of the model are missing or cannot be downloaded.
    """
    config_file = arguments.config_file
    overrides: list[str] = []
    weights = arguments.weights
    if arguments.model:
        config_file, overrides, model_weights = find_model(
            arguments.model, need_weights=not (weights or arguments.dry_run), plugins=arguments.plugin
        )
        weights = weights or model_weights or (arguments.dry_run and weights_place(arguments.model))
    if weights:
        overrides += ["MODEL.WEIGHTS", str(weights)]
    if arguments.output:
        overrides += ["OUTPUT_DIR", arguments.output]
    elif arguments.model:  # never the OUTPUT_DIR of a downloaded configuration
        overrides += ["OUTPUT_DIR", str(EVALUATIONS / Path(arguments.model).resolve().name)]
    if arguments.tta:
        overrides += ["TEST.AUG.ENABLED", "True"]
    converted = vars(arguments) | {"config_file": str(config_file), "opts": [*overrides, *arguments.opts]}
    return argparse.Namespace(**converted)


def configuration(arguments: argparse.Namespace) -> Config:
    """The checked configuration of a command line.

    Raises:
        ConfigError: the file or an override is wrong, or there are not enough GPUs.
        TrainingError: --eval-only --resume without a checkpoint.
    """
    unused = ["MODEL.ALLOW_UNUSED_WEIGHTS", True] if arguments.allow_unused_weights else []
    overrides: list[Any] = [
        *_dataset_overrides(arguments), *unused, *arguments.opts, *device_overrides(arguments)
    ]  # fmt: skip
    cfg = get_cfg(arguments.config_file, overrides, plugins=arguments.plugin)
    if arguments.protocol:
        settings = factory.protocol_settings(cfg)
        overrides = [*(part for pair in settings.items() for part in pair), *overrides]
        cfg = get_cfg(arguments.config_file, overrides, plugins=arguments.plugin)
    if arguments.eval_only and arguments.resume:
        overrides += ["MODEL.WEIGHTS", str(last_weights(Path(cfg.OUTPUT_DIR)))]
        cfg = get_cfg(arguments.config_file, overrides, plugins=arguments.plugin)
    if arguments.eval_only and not cfg.MODEL.WEIGHTS:
        raise ConfigError(_no_weights(arguments.program))
    if arguments.eval_only and not cfg.DATASETS.TEST:
        raise ConfigError(
            "DATASETS.TEST is empty, so there is nothing to evaluate; name a dataset by --dataset"
        )
    return cfg


def _no_weights(program: str) -> str:
    if program == "cmpf eval":
        return (
            f"{program} needs trained weights: give --weights FILE, or --model NAME instead of --config-file"
        )
    return (
        "--eval-only needs trained weights: give MODEL.WEIGHTS FILE, or --resume for the latest of OUTPUT_DIR"
    )


def _dataset_overrides(arguments: argparse.Namespace) -> list[Any]:
    """Keys and values for --dataset."""
    names = [dataset_name(dataset) for dataset in arguments.dataset or ()]
    if not names:
        return []
    if arguments.eval_only:
        return ["DATASETS.TEST", names]
    return ["DATASETS.TRAIN", names[:1], "DATASETS.TEST", names[1:] or names]
