# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf convert-config and cmpf convert-masks: files of published projects in CMPF's form, or how to make them anew."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cmpf.cli.outcome import DONE, add_debug

if TYPE_CHECKING:
    from cmpf.cli.outcome import Commands

MASKS_EXAMPLES = """examples:
  cmpf convert-masks output/sam_masks
"""
EXAMPLES = """examples:
  cmpf convert-config fcclip_convnext_large_eval_ade20k.yaml > mine.yaml
  cmpf convert-config train_panoptic_large.yaml --output mine.yaml
"""


def add_parser(commands: Commands) -> None:
    """Adds both commands."""
    config = commands.add_parser(
        "convert-config",
        help="a YAML file of FC-CLIP, FrozenSeg, Mask-Adapter, MAFT+ or OVRCOAT in CMPF's keys",
        description="Prints a configuration of a published project in CMPF's keys, and on stderr what has no effect.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    config.add_argument("file", type=Path, help="YAML file of theirs; its _BASE_ files are read, too")
    config.add_argument("--output", type=Path, metavar="FILE", help="write there [print]")
    config.add_argument("--overwrite", action="store_true", help="replace the output if it is there")
    add_debug(config)
    config.set_defaults(run=run_config)
    masks = commands.add_parser(
        "convert-masks",
        help="why SAM masks of the published tool are not read, and the command that makes CMPF's",
        description="SAM masks of the published tool are Python pickles, which CMPF does not open.",
        epilog=MASKS_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    masks.add_argument("file", type=Path, help="a file of masks, or a folder of them")
    add_debug(masks)
    masks.set_defaults(run=run_masks)


def run_config(arguments: argparse.Namespace) -> int:
    """Converts a configuration, and checks the result as a whole."""
    from cmpf.common.files import write_text
    from cmpf.config import get_cfg
    from cmpf.config.published import convert
    from cmpf.errors import ConfigError

    source, target = arguments.file.expanduser(), arguments.output
    if not source.is_file():
        raise ConfigError(f"{source}: no such file; give a YAML file of FC-CLIP or one of its kin")
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
    """Refuses, with the command that makes the same masks."""
    from cmpf.errors import EvaluationError

    raise EvaluationError(
        f"{arguments.file}: SAM masks of the published tool are Python pickles, which can run any code when they are "
        "read; CMPF does not open them. Make the masks with: cmpf save-sam-masks --config-file CONFIG "
        "--dataset NAME --output FOLDER, and evaluate with TEST.ENSEMBLE.SOURCE cache TEST.ENSEMBLE.CACHE_DIR FOLDER"
    )
