# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Segments images, a video or a webcam into classes that you name: cmpf predict with the flags of Detectron2's demo."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without installation

from cmpf.cli import predict
from cmpf.cli.command import run_command
from cmpf.cli.predict_options import add_options, add_webcam
from cmpf.common.cpu import usable_cores
from cmpf.errors import ImageError
from cmpf.formats.image import write_image

if TYPE_CHECKING:
    from cmpf.inference import Prediction

FOLDER = "output/demo_predictions"
MIN_SCORE = 0.5

EXAMPLES = """examples:
  python demo/demo.py --input demo/shapes.jpg --vocabulary "red triangle; green star; blue bolt; brick; tiles; road"
  python demo/demo.py --input photos/ extra/*.jpg --vocabulary "cat; dog, puppy; grass" --output out/
  python demo/demo.py --input a.jpg --vocabulary openvocab_ade20k_panoptic_val --confidence-threshold 0.5
  python demo/demo.py --video-input clip.mp4 --vocabulary "car; person; road" --output out/
  python demo/demo.py --config-file configs/coco/cmpf/convnext_large_eval_ade20k.yaml --input a.jpg \\
      --vocabulary "cat; dog" --opts MODEL.WEIGHTS cmpf_convnext_large.pth MODEL.DEVICE cpu

The default model, cmpf_tiny, only knows generated images such as demo/shapes.jpg. Without --output, images are shown in
a window if there is a display; --output FILE.png writes a single image. Without --vocabulary, a model trained on COCO
uses the classes of COCO, ADE20K and LVIS.
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
    sources.add_argument("--video-input", metavar="FILE", help="video file; the result has no sound")
    add_webcam(sources)
    parser.add_argument(
        "--config-file",
        default="cmpf_tiny",
        metavar="FILE",
        help="config file, model zoo name, model folder or Hub repository [%(default)s]",
    )
    parser.add_argument(
        "--parallel", action="store_true", help="use one model per GPU, or one per two cores on the CPU"
    )
    add_options(parser, output=FOLDER, min_score=MIN_SCORE, vocabulary_required=False)
    parser.set_defaults(run=run, output=None, min_score=MIN_SCORE, overwrite=True)
    return run_command(parser.parse_args(argv), prefix="demo.py")


def run(arguments: argparse.Namespace) -> int:
    """Runs `cmpf predict` with the same inputs, model and options; returns the exit code."""
    arguments.model = arguments.config_file
    arguments.images = arguments.input or [path for path in [arguments.video_input] if path]
    output = arguments.output
    arguments.output = output or Path(FOLDER)
    if arguments.input and output is None and has_display():
        return predict.run(arguments, save=show)
    if arguments.input and output is not None and output.suffix and not output.is_dir():
        if len(arguments.input) > 1 or Path(arguments.input[0]).is_dir():
            raise ImageError(
                f"--output {output}: a file holds the result of one image; give a folder for several"
            )
        return predict.run(arguments, save=partial(write, output))
    if arguments.parallel:
        use_all_devices(arguments)
    return predict.run(arguments)


def use_all_devices(arguments: argparse.Namespace) -> None:
    """Sets --device or --processes to use the whole machine, unless they are given."""
    import torch

    if arguments.device is None and arguments.processes is None:
        if count := torch.cuda.device_count():
            arguments.device = f"cuda:{','.join(map(str, range(count)))}"
        else:
            arguments.device, arguments.processes = "cpu", max(1, usable_cores() // 2)


def write(file: Path, prediction: Prediction) -> list[Path]:
    """Writes the overlay to a file, in the format given by its suffix."""
    if Image.registered_extensions().get(file.suffix.lower()) not in Image.SAVE:
        raise ImageError(f"--output {file}: unknown image format; use .png or .jpg, or a folder")
    return [write_image(file, prediction.plot())]


def show(prediction: Prediction) -> list[Path]:
    """Shows the overlay in a window."""
    prediction.plot().show(title=prediction.source)
    return []


def has_display() -> bool:
    """Whether a window can be opened."""
    return sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


if __name__ == "__main__":
    sys.exit(main())
