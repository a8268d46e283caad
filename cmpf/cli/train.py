# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf train and cmpf eval, and tools/train_net.py, which does both."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cmpf.cli.command import (
    ENGINES,
    NATIVE,
    Commands,
    add_allow_unused,
    add_command,
    add_debug,
    add_model,
    add_num_gpus,
    add_plugin,
    add_weights,
    not_negative,
    positive,
    run_command,
)

TRAIN_EXAMPLES = """examples:
  {program} --config-file configs/shapes/cmpf_tiny.yaml
  {program} --config-file configs/shapes/cmpf_tiny.yaml --resume
  {program} --config-file configs/shapes/cmpf_tiny.yaml SOLVER.MAX_ITER 300 OUTPUT_DIR output/short
  {program} --config-file configs/shapes/cmpf_tiny.yaml --dataset fruit_train.yaml --dataset fruit_val.yaml
"""
SCRIPT_EXAMPLE = """\
  {program} --config-file configs/shapes/cmpf_tiny.yaml --eval-only MODEL.WEIGHTS FILE.safetensors
"""
EVAL_EXAMPLES = """examples:
  cmpf eval --model cmpf_tiny
  cmpf eval --model output/mine --dataset fruit_val.yaml --output output/fruit
  cmpf eval --config-file configs/coco/cmpf/convnext_large_eval_ade20k.yaml --weights FILE.safetensors
"""
SCRIPT, TRAIN, EVAL = "tools/train_net.py", "cmpf train", "cmpf eval"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line of tools/train_net.py and returns its exit code."""
    return run_command(script_parser().parse_args(argv), prefix="error")


def script_parser() -> argparse.ArgumentParser:
    """The parser of tools/train_net.py."""
    parser = argparse.ArgumentParser(
        prog=SCRIPT.rpartition("/")[2],
        description="Trains or evaluates a model.",
        epilog=(TRAIN_EXAMPLES + SCRIPT_EXAMPLE).format(program=SCRIPT),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_train_arguments(parser)
    parser.add_argument(
        "--eval-only",
        action="store_true",
        help="only evaluate MODEL.WEIGHTS, or the latest checkpoint with --resume",
    )
    _add_common_arguments(parser)
    parser.set_defaults(run=run, program=SCRIPT)
    return parser


def add_parser(commands: Commands) -> None:
    """Adds both commands."""
    train = add_command(
        commands,
        "train",
        help="train a model from a configuration file",
        description="Trains a model and evaluates it.",
        examples=TRAIN_EXAMPLES.format(program=TRAIN),
    )
    _add_train_arguments(train)
    _add_common_arguments(train)
    train.set_defaults(run=run, program=TRAIN, eval_only=False)
    evaluation = add_command(
        commands,
        "eval",
        help="evaluate a trained model",
        description="Evaluates a trained model on the test datasets of its configuration, or on yours.",
        examples=EVAL_EXAMPLES,
    )
    _add_eval_arguments(evaluation)
    _add_common_arguments(evaluation)
    evaluation.set_defaults(run=run_eval, program=EVAL, eval_only=True, resume=False)


def run(arguments: argparse.Namespace) -> int:
    """Trains; evaluates if `arguments.eval_only`."""
    from cmpf.cli import experiment

    return experiment.run(arguments)


def run_eval(arguments: argparse.Namespace) -> int:
    """Evaluates a model given by --config-file or --model."""
    from cmpf.cli import experiment

    return experiment.run(experiment.as_eval_only(arguments))


def _add_config_file(parser: argparse.ArgumentParser | argparse._ActionsContainer, *, required: bool) -> None:
    parser.add_argument(
        "--config-file", required=required, metavar="FILE", help="YAML file, or its name under configs/"
    )


def _add_train_arguments(parser: argparse.ArgumentParser) -> None:
    _add_config_file(parser, required=True)
    parser.add_argument(
        "--resume", action="store_true", help="resume from the latest complete checkpoint in OUTPUT_DIR"
    )


def _add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of cmpf.cli.processes; not needed with torchrun or srun."""
    processes = parser.add_argument_group("processes")
    add = processes.add_argument
    add_num_gpus(processes)
    add("--num-processes", type=positive, metavar="N", help="number of CPU processes on this machine [1]")
    add("--num-machines", type=positive, default=1, metavar="N", help="number of machines [1]")
    add("--machine-rank", type=not_negative, default=0, metavar="I", help="rank of this machine, from 0 [0]")
    add(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="tcp://HOST:PORT of machine 0, with several machines",
    )


def _add_eval_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group(required=True)
    add_model(group, default=None)
    _add_config_file(group, required=False)
    add_weights(parser)
    parser.add_argument(
        "--output", metavar="DIR", help="output folder [OUTPUT_DIR, or output/eval/NAME with --model]"
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation of semantic segmentation: average over the image sizes and the flip of TEST.AUG",
    )


def _add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset",
        action="append",
        metavar="FILE",
        help="dataset name or YAML file to use instead of DATASETS.TRAIN and DATASETS.TEST; can be repeated: training "
        "uses the first and tests on the others, evaluation tests on all",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="list found and missing data, vocabularies and weights, and exit; exit code 1 if any is missing",
    )
    parser.add_argument(
        "--protocol",
        choices=("published",),
        help="use vocabularies, seen classes, precision, thresholds and ensemble of the papers; KEY VALUE has priority",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=NATIVE,
        help="training and evaluation loop: CMPF's own, or that of an installed Detectron2 [%(default)s]",
    )
    parser.add_argument(
        "--profile",
        type=not_negative,
        default=0,
        metavar="N",
        help="time the sections of N steps, write profile_trace.json to OUTPUT_DIR, and exit",
    )
    add_plugin(parser)
    add_allow_unused(parser)
    _add_process_arguments(parser)
    add_debug(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="configuration overrides")
