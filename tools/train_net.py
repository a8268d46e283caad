# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Trains or evaluates a model from a configuration file.

Exit codes: 0 done, or stopped by a signal with everything saved; 1 error (one line; --debug shows the
traceback); 2 usage.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from cmpf import build
from cmpf.config import get_cfg
from cmpf.engine.best_metric import Results
from cmpf.engine.checkpoints import last_weights
from cmpf.engine.environment import environment_report
from cmpf.engine.logs import FILE_ONLY, logging_to
from cmpf.engine.seeding import seed_everything
from cmpf.engine.writers import build_writers
from cmpf.errors import CMPFError, ConfigError
from cmpf.evaluation import format_results, save_results
from cmpf.files import write_text

EXAMPLES = """examples:
  tools/train_net.py --config-file configs/shapes/cmpf_tiny.yaml
  tools/train_net.py --config-file configs/shapes/cmpf_tiny.yaml --resume
  tools/train_net.py --config-file configs/shapes/cmpf_tiny.yaml SOLVER.MAX_ITER 300 OUTPUT_DIR output/short
  tools/train_net.py --config-file configs/shapes/cmpf_tiny.yaml --eval-only MODEL.WEIGHTS FILE.safetensors
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        cfg = configuration(arguments)
        with logging_to(Path(cfg.OUTPUT_DIR)) as logger:
            try:
                return _run(arguments, cfg, logger)
            except Exception:
                logger.exception("the run ended with an error", extra=FILE_ONLY)
                raise
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 1
    except Exception as error:
        if arguments.debug:
            raise
        # What is not one of our own errors is a bug or a machine's trouble; then its kind tells something.
        kind = "" if isinstance(error, CMPFError) else f"{type(error).__name__}: "
        hint = "" if isinstance(error, CMPFError) else " (--debug shows where)"
        print(f"error: {kind}{error}{hint}", file=sys.stderr)
        return 1


def configuration(arguments: argparse.Namespace) -> CfgNode:
    """The configuration that a command line asks for, checked and frozen.

    Raises:
        ConfigError: faults in the file or in KEY VALUE, or a number of GPUs that cannot be had.
        TrainingError: --eval-only --resume where there is no checkpoint.
    """
    overrides = [*arguments.opts, *_device(arguments.num_gpus)]
    cfg = get_cfg(arguments.config_file, overrides)
    if arguments.eval_only and arguments.resume:
        cfg = get_cfg(
            arguments.config_file, [*overrides, "MODEL.WEIGHTS", str(last_weights(Path(cfg.OUTPUT_DIR)))]
        )
    if arguments.eval_only and not cfg.MODEL.WEIGHTS:
        raise ConfigError(
            "--eval-only needs trained weights: give MODEL.WEIGHTS FILE, or --resume for the newest of "
            "OUTPUT_DIR"
        )
    return cfg


def _device(num_gpus: int | None) -> list[str]:
    """KEY VALUE for a number of GPUs; None leaves the choice to MODEL.DEVICE."""
    if num_gpus is None:
        return []
    if num_gpus not in (0, 1):
        raise ConfigError(
            f"--num-gpus {num_gpus}: training runs in one process on one device; use 0 (CPU) or 1"
        )
    if num_gpus == 1 and not torch.cuda.is_available():
        raise ConfigError("--num-gpus 1: there is no CUDA device here; use --num-gpus 0 for the CPU")
    return ["MODEL.DEVICE", "cuda" if num_gpus else "cpu"]


def _run(arguments: argparse.Namespace, cfg: CfgNode, logger: logging.Logger) -> int:
    folder = Path(cfg.OUTPUT_DIR)
    logger.info("environment:\n%s", environment_report(), extra=FILE_ONLY)
    write_text(folder / "config.yaml", cfg.dump())
    logger.info("%s -> %s, seed %d", arguments.config_file, folder, seed_everything(cfg.SEED))
    model = build.build_model(cfg)
    results: Results | None
    if arguments.eval_only:
        model.eval()
        results = build.build_evaluation(cfg, model)()
    else:
        terminal = sys.stdout.isatty()
        writers = build_writers(folder, logger=logger, terminal=terminal, tensorboard=True)
        trainer = build.build_trainer(cfg, model, writers=writers)
        if arguments.resume and not trainer.resume():
            logger.info("no checkpoint in %s yet: starting at the beginning", folder)
        outcome = trainer.train()
        if not outcome.finished:
            again = shlex.join(["--config-file", arguments.config_file, "--resume", *arguments.opts])
            logger.info(
                "%s: stopped after iteration %d, everything is saved. Go on with: tools/train_net.py %s",
                outcome.stopped_by,
                outcome.iteration,
                again,
            )
            return 0
        results = outcome.results
    if results:
        save_results(results, folder)
        logger.info("results, also in %s:\n%s", folder / "results.md", format_results(results))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Trains or evaluates a model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file", required=True, metavar="FILE", help="YAML file, or its name under configs/"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the newest whole checkpoint in OUTPUT_DIR"
    )
    parser.add_argument(
        "--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS, or with --resume the newest"
    )
    parser.add_argument("--num-gpus", type=int, metavar="N", help="0 = CPU, 1 = one GPU [MODEL.DEVICE]")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes to the configuration")
    return parser


if __name__ == "__main__":
    sys.exit(main())
