# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf convert-checkpoint (also tools/convert_checkpoint.py), convert-config and convert-masks: convert files of
published projects.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cmpf.cli.command import DONE, Commands, add_command, add_debug, command_parser, run_command

CHECKPOINT = "convert-checkpoint"
CHECKPOINT_EXAMPLES = """examples:
  cmpf convert-checkpoint frozenseg.pth cmpf.safetensors
  cmpf convert-checkpoint theirs.pth mine.safetensors --config-file my.yaml --opts MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS 3
  cmpf convert-checkpoint cmpf.safetensors published.pth --to published

With --config-file, the weights are first loaded into that model to check that they fit, and the output records the
names of its encoders. Without it, encoders found in the input are recorded as "clip" and "sam".
"""
MASKS_EXAMPLES = """examples:
  cmpf convert-masks output/sam_masks
"""
CONFIG_EXAMPLES = """examples:
  cmpf convert-config fcclip_convnext_large_eval_ade20k.yaml > mine.yaml
  cmpf convert-config train_panoptic_large.yaml --output mine.yaml
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line of tools/convert_checkpoint.py, which also takes trailing KEY VALUE."""
    parser = command_parser(add_parser, CHECKPOINT)
    parser.add_argument("trailing", nargs="*", metavar="KEY VALUE", help="configuration overrides")
    arguments = parser.parse_intermixed_args(argv)
    arguments.opts = [*arguments.opts, *arguments.trailing]
    return run_command(arguments, prefix="error")


def add_parser(commands: Commands) -> None:
    """Adds the three commands."""
    _add_checkpoint(commands)
    config = add_command(
        commands,
        "convert-config",
        help="convert a YAML file of FC-CLIP, FrozenSeg, Mask-Adapter, MAFT+ or OVRCOAT to CMPF's keys",
        description="Converts a configuration of a published project to CMPF's keys; stderr lists keys without effect.",
        examples=CONFIG_EXAMPLES,
    )
    config.add_argument(
        "file", type=Path, help="YAML file of the published project; its _BASE_ files are read too"
    )
    config.add_argument("--output", type=Path, metavar="FILE", help="output file [stdout]")
    config.add_argument("--overwrite", action="store_true", help="overwrite an existing output file")
    add_debug(config)
    config.set_defaults(run=run_config)
    masks = add_command(
        commands,
        "convert-masks",
        help="explain why SAM masks of the published tool are not read, and how to create them with CMPF",
        description="SAM masks of the published tool are Python pickles, which CMPF does not open.",
        examples=MASKS_EXAMPLES,
    )
    masks.add_argument("file", type=Path, help="mask file, or folder of mask files")
    add_debug(masks)
    masks.set_defaults(run=run_masks)


def _add_checkpoint(commands: Commands) -> None:
    parser = add_command(
        commands,
        CHECKPOINT,
        help="convert a checkpoint of a published project to CMPF's small file, or back",
        description="Converts checkpoints of published projects (FrozenSeg, FC-CLIP and derivatives) to CMPF's small "
        "safetensors files, or back.",
        examples=CHECKPOINT_EXAMPLES,
    )
    parser.add_argument("input", help="checkpoint of CMPF or a published project: .safetensors, .pth or .pt")
    parser.add_argument("output", help="output file: .safetensors; with --to published also .pth or .pt")
    parser.add_argument(
        "--to",
        choices=("cmpf", "published"),
        default="cmpf",
        help="format of the output, CMPF's or the published one [cmpf]",
    )
    parser.add_argument(
        "--config-file", metavar="FILE", help="configuration of the model that the weights belong to"
    )
    parser.add_argument("--overwrite", action="store_true", help="overwrite an existing output file")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="configuration overrides")
    add_debug(parser)
    parser.set_defaults(run=run_checkpoint, usage_error=parser.error)


def run_checkpoint(arguments: argparse.Namespace) -> int:
    """Converts a checkpoint and prints a report."""
    if arguments.opts and not arguments.config_file:
        arguments.usage_error(f"{' '.join(arguments.opts)}: KEY VALUE need --config-file")
    from cmpf.config import get_cfg
    from cmpf.factory.conversion import convert_checkpoint

    cfg = get_cfg(arguments.config_file, arguments.opts) if arguments.config_file else None
    source, target = Path(arguments.input), Path(arguments.output)
    for line in convert_checkpoint(source, target, to=arguments.to, cfg=cfg, overwrite=arguments.overwrite):
        print(line)
    return DONE


def run_config(arguments: argparse.Namespace) -> int:
    """Converts a configuration and validates the result."""
    from cmpf.common.files import write_text
    from cmpf.config import get_cfg
    from cmpf.config.published import convert
    from cmpf.errors import ConfigError

    source, target = arguments.file.expanduser(), arguments.output
    if not source.is_file():
        raise ConfigError(f"{source}: no such file; give a YAML file of FC-CLIP or a derived project")
    if target is not None and target.exists() and not arguments.overwrite:
        raise ConfigError(f"{target} exists; give another name, or --overwrite to replace it")
    converted = convert(source)
    get_cfg(None, [part for pair in converted.values.items() for part in pair])
    text = converted.as_yaml()
    for note in converted.notes:
        print(note, file=sys.stderr)
    if target is None:
        print(text, end="")
    else:
        write_text(target, text)
        print(f"{target}: {len(converted.values)} keys, {len(converted.notes)} left out")
    return DONE


def run_masks(arguments: argparse.Namespace) -> int:
    """Raises EvaluationError, which names the command that makes the same masks."""
    from cmpf.errors import EvaluationError

    raise EvaluationError(
        f"{arguments.file}: SAM masks of the published tool are Python pickles, which can run any code when they are "
        "read; CMPF does not open them. Create the masks with: cmpf save-sam-masks --config-file CONFIG "
        "--dataset NAME --output FOLDER, and evaluate with TEST.ENSEMBLE.SOURCE cache TEST.ENSEMBLE.CACHE_DIR FOLDER"
    )
