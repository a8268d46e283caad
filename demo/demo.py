# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""`cmpf predict` with the flags of Detectron2's demo: segments images, a video or a webcam into classes you name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout may not be installed

from cmpf.cli import predict
from cmpf.cli.outcome import run_command

EXAMPLES = """examples:
  python demo/demo.py --input demo/shapes.jpg --vocabulary "red triangle; green star; blue bolt; brick; tiles; road"
  python demo/demo.py --input photos/ extra/*.jpg --vocabulary "cat; dog, puppy; grass" --output out/
  python demo/demo.py --input a.jpg --vocabulary openvocab_ade20k_panoptic_val --confidence-threshold 0.5
  python demo/demo.py --video-input clip.mp4 --vocabulary "car; person; road" --output out/
  python demo/demo.py --config-file configs/coco/cmpf/convnext_large_eval_ade20k.yaml --input a.jpg \\
      --vocabulary "cat; dog" --opts MODEL.WEIGHTS cmpf_convnext_large.pth MODEL.DEVICE cpu

Without --config-file the tiny model runs, which knows generated images only, such as demo/shapes.jpg.
See cmpf predict --help for more."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="demo.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sources = parser.add_mutually_exclusive_group(required=True)
    sources.add_argument(
        "--input", nargs="+", metavar="IMAGE", help='files, folders or quoted patterns such as "photos/*.jpg"'
    )
    sources.add_argument("--video-input", metavar="FILE", help="a video; its sound is not copied")
    predict.add_webcam(sources)
    parser.add_argument(
        "--config-file",
        default="cmpf_tiny",
        metavar="FILE",
        help="config, or what cmpf.load takes: zoo name, folder, Hub repository [%(default)s]",
    )
    predict.add_options(parser, output="output/demo_predictions", own_words=False)
    parser.set_defaults(run=run)
    return run_command(parser.parse_args(argv), prefix="demo.py")


def run(arguments: argparse.Namespace) -> int:
    """Does what `cmpf predict` does with the same images, model and options."""
    arguments.model = arguments.config_file
    arguments.images = arguments.input or [path for path in [arguments.video_input] if path]
    return predict.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
