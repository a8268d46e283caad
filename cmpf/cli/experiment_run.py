# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""One process of cmpf train or cmpf eval: builds the model, trains or evaluates it, logs and saves the results."""

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
from cmpf.cli.command import NATIVE
from cmpf.cli.processes import process_flags
from cmpf.common import distributed
from cmpf.common.files import write_text
from cmpf.config import Config
from cmpf.engine.checkpoints import training_lock
from cmpf.engine.evaluations import Results
from cmpf.engine.logs import FILE_ONLY, environment_report, logging_to
from cmpf.engine.profiling import TRACE_FILE, Profile, profile_evaluation, profile_training
from cmpf.engine.seeding import seed_everything, seed_rank
from cmpf.engine.wandb_writer import WandbWriter
from cmpf.engine.writers import Writer, build_writers
from cmpf.errors import ConfigError
from cmpf.evaluation import clear_results, format_results, save_results, verify_results
from cmpf.factory.evaluation import build_evaluators, build_views, inference_over, require_datasets
from cmpf.factory.vocabularies import build_dataset
from cmpf.model import CMPF
from cmpf.weights.zoo import published_metrics


def run(arguments: argparse.Namespace, cfg: Config) -> int:
    """Trains or evaluates in one process; logs the traceback of an error to OUTPUT_DIR and raises it again."""
    with logging_to(Path(cfg.OUTPUT_DIR)) as logger:
        try:
            return _run_locked(arguments, cfg, logger)
        except Exception:
            logger.exception("the run failed", extra=FILE_ONLY)
            raise


def detectron2_engine(engine: str, cfg: Config, *, eval_only: bool, profile: bool = False) -> Any | None:
    """The package cmpf.detectron2, or None for CMPF's own training loop.

    Detectron2 is used only on request, even if it is installed, because its checkpoints and resumption differ.

    Args:
        engine: one of ENGINES.
        profile: whether --profile is given, which only CMPF's own loop supports.
    Raises:
        ConfigError: Detectron2 is requested and cannot be imported, or cannot run this configuration.
    """
    if engine == NATIVE:
        return None
    try:
        from cmpf import detectron2
    except ImportError as error:
        raise ConfigError(f"--engine detectron2: {error}") from error
    if profile:
        reason = "--profile measures the native engine"
    else:
        reason = detectron2.obstacle(cfg, eval_only=eval_only)
    if reason:
        raise ConfigError(f"--engine detectron2: {reason}; use --engine native")
    return detectron2


def _run_locked(arguments: argparse.Namespace, cfg: Config, logger: logging.Logger) -> int:
    """Trains or evaluates; a training locks OUTPUT_DIR against other trainings."""
    if arguments.eval_only:
        return _run_unlocked(arguments, cfg, logger)
    with ExitStack() as stack:
        distributed.on_main(lambda: stack.enter_context(training_lock(Path(cfg.OUTPUT_DIR))))
        return _run_unlocked(arguments, cfg, logger)


def _run_unlocked(arguments: argparse.Namespace, cfg: Config, logger: logging.Logger) -> int:
    folder = Path(cfg.OUTPUT_DIR)
    logger.info("environment:\n%s", environment_report(), extra=FILE_ONLY)
    if distributed.is_main():
        write_text(folder / "config.yaml", cfg.dump())
    logger.info("%s -> %s, seed %d", arguments.config_file, folder, seed_everything(cfg.SEED))
    factory.use_threads(cfg)
    logger.info("engine: %s", arguments.engine)
    detectron2 = detectron2_engine(
        arguments.engine, cfg, eval_only=arguments.eval_only, profile=bool(arguments.profile)
    )
    if detectron2 is None:
        results = _run_native(arguments, cfg, logger)
    else:
        results = detectron2.run(cfg, resume=arguments.resume, eval_only=arguments.eval_only)
    if results and distributed.is_main():
        published, protocols = published_metrics(cfg), factory.protocols_of(cfg)
        save_results(results, folder, published=published, protocols=protocols)
        table = format_results(results, published=published, protocols=protocols)
        logger.info("results, also written to %s:\n%s", folder / "results.md", table)
        verify_results(results, cfg.TEST.EXPECTED_RESULTS)
    return 0


def _run_native(arguments: argparse.Namespace, cfg: Config, logger: logging.Logger) -> Results | None:
    require_datasets(cfg, training=not arguments.eval_only)
    with distributed.main_first():
        model = factory.build_model(cfg)
    train_or_evaluate = _evaluate if arguments.eval_only else _train
    return train_or_evaluate(arguments, cfg, model, logger)


def _evaluate(
    arguments: argparse.Namespace, cfg: Config, model: CMPF, logger: logging.Logger
) -> Results | None:
    """Evaluates the model; returns the results, or None after profiling."""
    if arguments.profile:
        _profile_evaluation(cfg, model, arguments.profile, logger)
        return None
    evaluation = factory.build_evaluation(cfg, model)
    if distributed.is_main():
        # If this evaluation is killed, an earlier one's results must not be taken for its own.
        clear_results(Path(cfg.OUTPUT_DIR))
    return evaluation()


def _train(arguments: argparse.Namespace, cfg: Config, model: CMPF, logger: logging.Logger) -> Results | None:
    """Trains the model; returns the last results, None if stopped, profiled, or without test datasets."""
    folder = Path(cfg.OUTPUT_DIR)
    trainer = factory.build_trainer(cfg, model, writers=[] if arguments.profile else _writers(cfg, logger))
    seed_rank(cfg.SEED)
    if arguments.profile:
        profile = profile_training(trainer, iterations=arguments.profile, folder=_trace_folder(folder))
        _log_profile(profile, folder, logger)
        return None
    if arguments.resume and not trainer.resume():
        logger.info("no checkpoint in %s: starting from the beginning", folder)
    outcome = trainer.train()
    if not outcome.finished:
        logger.info(
            "%s: stopped after iteration %d, everything is saved. Resume with: %s",
            outcome.stopped_by,
            outcome.iteration,
            _resume_command(arguments),
        )
        return None
    return outcome.results


def _writers(cfg: Config, logger: logging.Logger) -> list[Writer]:
    """The writers of metrics; none in processes other than the main one."""
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
    """Profiles the evaluation of the first test dataset."""
    dataset, folder = build_dataset(cfg, cfg.DATASETS.TEST[0]), Path(cfg.OUTPUT_DIR)
    profile = profile_evaluation(
        inference_over(model, dataset, build_views(cfg)),
        factory.build_test_loader(cfg, dataset),
        build_evaluators(cfg, model, dataset),
        iterations=steps,
        folder=_trace_folder(folder),
    )
    _log_profile(profile, folder, logger)


def _trace_folder(folder: Path) -> Path | None:
    """The folder of the trace; None in processes other than the main one."""
    return folder if distributed.is_main() else None


def _log_profile(profile: Profile, folder: Path, logger: logging.Logger) -> None:
    logger.info(
        "%s\ntrace, to open in chrome://tracing or ui.perfetto.dev: %s", profile.table(), folder / TRACE_FILE
    )


def _resume_command(arguments: argparse.Namespace) -> str:
    """The command line that resumes this training."""
    datasets = [part for dataset in arguments.dataset or () for part in ("--dataset", dataset)]
    plugins = [part for plugin in arguments.plugin for part in ("--plugin", plugin)]
    words = [
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
    return f"{arguments.program} {shlex.join(words)}"
