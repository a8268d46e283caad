# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""One training or evaluation: its configuration, its log, its results."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from cmpf import factory
from cmpf.cli import dry_run
from cmpf.cli.command import NATIVE
from cmpf.cli.datasets import dataset_name
from cmpf.cli.processes import device_overrides, in_processes, process_flags
from cmpf.common import distributed
from cmpf.common.files import write_text
from cmpf.config import Config, get_cfg
from cmpf.engine.checkpoints import last_weights, training_lock
from cmpf.engine.evaluations import Results
from cmpf.engine.logs import FILE_ONLY, environment_report, logging_to
from cmpf.engine.profiling import TRACE_FILE, Profile, profile_evaluation, profile_training
from cmpf.engine.seeding import seed_everything, seed_rank
from cmpf.engine.wandb_writer import WandbWriter
from cmpf.engine.writers import Writer, build_writers
from cmpf.errors import ConfigError
from cmpf.evaluation import clear_results, format_results, save_results, verify_results
from cmpf.factory.evaluation import build_evaluators, build_views, inference_over
from cmpf.factory.vocabularies import build_dataset
from cmpf.model import CMPF
from cmpf.weights.hub import find_model, weights_place
from cmpf.weights.zoo import published_metrics

EVALUATIONS = Path("output/eval")  # where results of a model go that has no configuration of the user's


def run(arguments: argparse.Namespace) -> int:
    """Trains or evaluates, in one process or in several.

    Args:
        arguments: config_file, opts (KEY VALUE ...), dataset (None or a list), those of cmpf.cli.processes, eval_only,
            resume, profile, engine, and program, by which the user goes on.
    Returns:
        0: done, or stopped by a signal with everything saved. Of a dry run: 1 where something is missing.
    """
    cfg = configuration(arguments)  # its issues are found before processes are started
    if arguments.dry_run:
        return dry_run.run(cfg, eval_only=arguments.eval_only)
    return in_processes(run_process, arguments, cfg)


def run_process(arguments: argparse.Namespace, cfg: Config) -> int:
    """What one process does. Errors stand in the log of OUTPUT_DIR, with their traceback, and are raised again."""
    with logging_to(Path(cfg.OUTPUT_DIR)) as logger:
        try:
            return _run(arguments, cfg, logger)
        except Exception:
            logger.exception("the run ended with an error", extra=FILE_ONLY)
            raise


def as_eval_only(arguments: argparse.Namespace) -> argparse.Namespace:
    """The arguments of `cmpf eval` as those of tools/train_net.py.

    Raises:
        ModelNameError: --model is no zoo name and no folder. WeightsError: its weights cannot be had.
    """
    config_file = arguments.config_file
    own: list[str] = []
    weights = arguments.weights
    if arguments.model:
        config_file, own, found = find_model(
            arguments.model, need_weights=not (weights or arguments.dry_run), plugins=arguments.plugin
        )
        weights = weights or found or (arguments.dry_run and weights_place(arguments.model))
    if weights:
        own += ["MODEL.WEIGHTS", str(weights)]
    if arguments.output:
        own += ["OUTPUT_DIR", arguments.output]
    elif arguments.model:  # whoever made the model does not choose where this machine is written to
        own += ["OUTPUT_DIR", str(EVALUATIONS / Path(arguments.model).resolve().name)]
    if arguments.tta:
        own += ["TEST.AUG.ENABLED", "True"]
    given = vars(arguments) | {"config_file": str(config_file), "opts": [*own, *arguments.opts]}
    return argparse.Namespace(**given)


def configuration(arguments: argparse.Namespace) -> Config:
    """The configuration that a command line asks for, checked and frozen.

    Raises:
        ConfigError: issues in the file or in KEY VALUE, or a number of GPUs that cannot be had.
        TrainingError: --eval-only --resume where there is no checkpoint.
    """
    unused = ["MODEL.ALLOW_UNUSED_WEIGHTS", True] if arguments.allow_unused_weights else []
    overrides: list[Any] = [*_datasets(arguments), *unused, *arguments.opts, *device_overrides(arguments)]
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
    return cfg


def _no_weights(program: str) -> str:
    if program == "cmpf eval":
        return (
            f"{program} needs trained weights: give --weights FILE, or --model NAME instead of --config-file"
        )
    return (
        "--eval-only needs trained weights: give MODEL.WEIGHTS FILE, or --resume for the newest of OUTPUT_DIR"
    )


def _datasets(arguments: argparse.Namespace) -> list[Any]:
    """KEY VALUE for --dataset."""
    names = [dataset_name(given) for given in arguments.dataset or ()]
    if not names:
        return []
    if arguments.eval_only:
        return ["DATASETS.TEST", names]
    return ["DATASETS.TRAIN", names[:1], "DATASETS.TEST", names[1:] or names]


def detectron2_engine(wanted: str, cfg: Config, *, eval_only: bool, profile: bool = False) -> Any | None:
    """The package cmpf.detectron2 if its loop is asked for, None for CMPF's own.

    That Detectron2 is installed changes nothing: its loop writes other checkpoints and resumes in another way.

    Args:
        wanted: one of ENGINES.
        profile: steps are to be measured, which only CMPF's own loop does.
    Raises:
        ConfigError: Detectron2 is asked for and cannot be imported, or cannot run this configuration.
    """
    if wanted == NATIVE:
        return None
    try:
        from cmpf import detectron2 as host
    except ImportError as error:
        raise ConfigError(f"--engine detectron2: {error}") from error
    reason = "--profile measures the native engine" if profile else host.obstacle(cfg, eval_only=eval_only)
    if reason:
        raise ConfigError(f"--engine detectron2: {reason}; use --engine native")
    return host


def _run(arguments: argparse.Namespace, cfg: Config, logger: logging.Logger) -> int:
    if arguments.eval_only:
        return _run_alone(arguments, cfg, logger)
    with ExitStack() as stack:
        distributed.on_main(lambda: stack.enter_context(training_lock(Path(cfg.OUTPUT_DIR))))
        return _run_alone(arguments, cfg, logger)


def _run_alone(arguments: argparse.Namespace, cfg: Config, logger: logging.Logger) -> int:
    """What a process does in a folder that no other training writes into."""
    folder = Path(cfg.OUTPUT_DIR)
    logger.info("environment:\n%s", environment_report(), extra=FILE_ONLY)
    if distributed.is_main():
        write_text(folder / "config.yaml", cfg.dump())
    logger.info("%s -> %s, seed %d", arguments.config_file, folder, seed_everything(cfg.SEED))
    factory.use_threads(cfg)
    logger.info("engine: %s", arguments.engine)
    host = detectron2_engine(
        arguments.engine, cfg, eval_only=arguments.eval_only, profile=bool(arguments.profile)
    )
    if host is None:
        results = _run_natively(arguments, cfg, logger)
    else:
        results = host.run(cfg, resume=arguments.resume, eval_only=arguments.eval_only)
    if results and distributed.is_main():
        told: Any = {"published": published_metrics(cfg), "protocols": factory.protocols_of(cfg)}
        save_results(results, folder, **told)
        table = format_results(results, **told)
        logger.info("results, also in %s:\n%s", folder / "results.md", table)
        verify_results(results, cfg.TEST.EXPECTED_RESULTS)
    return 0


def _run_natively(arguments: argparse.Namespace, cfg: Config, logger: logging.Logger) -> Results | None:
    with distributed.main_first():
        model = factory.build_model(cfg)
    if arguments.eval_only:
        return _evaluate(arguments, cfg, model, logger)
    return _train(arguments, cfg, model, logger)


def _evaluate(
    arguments: argparse.Namespace, cfg: Config, model: CMPF, logger: logging.Logger
) -> Results | None:
    """Results; None after a profile."""
    model.eval()
    if arguments.profile:
        _profile_evaluation(cfg, model, arguments.profile, logger)
        return None
    evaluation = factory.build_evaluation(cfg, model)
    if distributed.is_main():
        # Should this evaluation be killed, nobody takes an earlier one's results for its own.
        clear_results(Path(cfg.OUTPUT_DIR))
    return evaluation()


def _train(arguments: argparse.Namespace, cfg: Config, model: CMPF, logger: logging.Logger) -> Results | None:
    """The last evaluation; None after a signal or a profile, and where there is no test dataset."""
    folder = Path(cfg.OUTPUT_DIR)
    trainer = factory.build_trainer(cfg, model, writers=[] if arguments.profile else _writers(cfg, logger))
    seed_rank(cfg.SEED)
    if arguments.profile:
        profile = profile_training(trainer, iterations=arguments.profile, folder=_trace_folder(folder))
        _tell(profile, folder, logger)
        return None
    if arguments.resume and not trainer.resume():
        logger.info("no checkpoint in %s yet: starting at the beginning", folder)
    outcome = trainer.train()
    if not outcome.finished:
        logger.info(
            "%s: stopped after iteration %d, everything is saved. Go on with: %s",
            outcome.stopped_by,
            outcome.iteration,
            _again(arguments),
        )
        return None
    return outcome.results


def _writers(cfg: Config, logger: logging.Logger) -> list[Writer]:
    """The first process writes for all."""
    if not distributed.is_main():
        return []
    folder = Path(cfg.OUTPUT_DIR)
    writers = build_writers(
        folder, logger=logger, terminal=sys.stdout.isatty(), tensorboard=cfg.LOG.TENSORBOARD
    )
    if cfg.LOG.WANDB_PROJECT:
        config = yaml.safe_load(cfg.dump())
        writers.append(WandbWriter(folder, project=cfg.LOG.WANDB_PROJECT, config=config))
    return writers


def _profile_evaluation(cfg: Config, model: CMPF, steps: int, logger: logging.Logger) -> None:
    """Measures an evaluation of the first test dataset."""
    dataset, folder = build_dataset(cfg, cfg.DATASETS.TEST[0]), Path(cfg.OUTPUT_DIR)
    profile = profile_evaluation(
        inference_over(model, dataset, build_views(cfg)),
        factory.build_test_loader(cfg, dataset),
        build_evaluators(cfg, model, dataset),
        iterations=steps,
        folder=_trace_folder(folder),
    )
    _tell(profile, folder, logger)


def _trace_folder(folder: Path) -> Path | None:
    """The first process writes for all."""
    return folder if distributed.is_main() else None


def _tell(profile: Profile, folder: Path, logger: logging.Logger) -> None:
    logger.info(
        "%s\ntrace, for chrome://tracing or ui.perfetto.dev: %s", profile.table(), folder / TRACE_FILE
    )


def _again(arguments: argparse.Namespace) -> str:
    """The command line that goes on with this training."""
    datasets = [part for given in arguments.dataset or () for part in ("--dataset", given)]
    plugins = [part for given in arguments.plugin for part in ("--plugin", given)]
    again = [
        *datasets,
        *plugins,
        *(["--protocol", arguments.protocol] if arguments.protocol else []),
        *(["--allow-unused-weights"] if arguments.allow_unused_weights else []),
        *process_flags(arguments),
        "--config-file",
        arguments.config_file,
        "--resume",
        *arguments.opts,
    ]
    return f"{arguments.program} {shlex.join(again)}"
