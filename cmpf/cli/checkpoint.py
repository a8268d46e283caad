# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf convert-checkpoint, and the script tools/convert_checkpoint.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cmpf.cli.outcome import DONE, add_debug, command_parser, run_command

if TYPE_CHECKING:
    from cmpf.cli.outcome import Commands

COMMAND = "convert-checkpoint"
EXAMPLES = """examples:
  cmpf convert-checkpoint frozenseg.pth cmpf.safetensors
  cmpf convert-checkpoint theirs.pth mine.safetensors --config-file my.yaml --opts MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS 3
  cmpf convert-checkpoint cmpf.safetensors published.pth --to published

With --config-file the weights are loaded into that model first, which shows whether they fit, and the file records
the names of the encoders. Without it the encoders inside the input are recorded as "clip" and "sam".
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line of tools/convert_checkpoint.py, which takes KEY VALUE at its end, too."""
    parser = command_parser(add_parser, COMMAND)
    parser.add_argument("trailing", nargs="*", metavar="KEY VALUE", help="changes to the configuration")
    arguments = parser.parse_intermixed_args(argv)
    arguments.opts = [*arguments.opts, *arguments.trailing]
    return run_command(arguments, prefix="error")


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        COMMAND,
        help="a checkpoint of a published project as CMPF's small file, or back",
        description="Converts checkpoints: published ones (FrozenSeg, FC-CLIP and its kin) to CMPF's small "
        "safetensors files, or back.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", help="checkpoint of CMPF, FrozenSeg or FC-CLIP: .safetensors, .pth or .pt")
    parser.add_argument("output", help="file to write; for --to published .pth, .pt or .safetensors")
    parser.add_argument(
        "--to", choices=("cmpf", "published"), default="cmpf", help="whose names to write [cmpf]"
    )
    parser.add_argument(
        "--config-file", metavar="FILE", help="configuration of the model that the weights belong to"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it is there")
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY VALUE", help="changes to the configuration"
    )
    add_debug(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Converts, and prints what was found."""
    if arguments.opts and not arguments.config_file:
        arguments.usage_error(f"{' '.join(arguments.opts)}: KEY VALUE need --config-file")
    from cmpf.config import get_cfg
    from cmpf.factory.conversion import convert_checkpoint

    cfg = get_cfg(arguments.config_file, arguments.opts) if arguments.config_file else None
    source, target = Path(arguments.input), Path(arguments.output)
    for line in convert_checkpoint(source, target, to=arguments.to, cfg=cfg, overwrite=arguments.overwrite):
        print(line)
    return DONE
