# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Options of cmpf predict and demo/demo.py, some of them shared with cmpf label."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cmpf.cli.command import add_debug, add_model_options, add_weights, fraction, positive

TASKS = ("all", "panoptic", "semantic", "instance")
# A copy of the keys of cmpf.labelling.writers.FORMATS, so that the help text does not import NumPy.
FORMATS = (
    "overlay", "semantic", "instances", "coco", "coco-polygons", "coco-panoptic", "yolo", "labelme", "html", "parquet",
)  # fmt: skip
AUTO = "auto"
VOCABULARY_HELP = (
    'classes: "car; person, pedestrian; sky", a vocabulary .txt file, or the name or YAML file of a dataset'
)


def add_webcam(sources: argparse._ActionsContainer) -> None:
    """Adds --webcam."""
    sources.add_argument(
        "--webcam",
        type=int,
        nargs="?",
        const=0,
        metavar="N",
        help="camera number N [0]; the latest image is webcam_latest.jpg in the output folder, Ctrl-C ends",
    )


def add_things_and_stuff(options: argparse._ActionsContainer) -> None:
    """Adds --stuff and --things."""
    group = options.add_mutually_exclusive_group()
    group.add_argument("--stuff", metavar="WORDS", help='classes not counted one by one: "road; sky"')
    group.add_argument("--things", metavar="WORDS", help="classes counted one by one; all others are stuff")


def add_options(parser: argparse.ArgumentParser, *, output: str, vocabulary_required: bool = True) -> None:
    """Adds all options but those that name the inputs and the model.

    Args:
        output: default output folder.
        vocabulary_required: whether --vocabulary is required, or defaults to the model's training classes.
    """
    add = parser.add_argument
    add(
        "--vocabulary",
        required=vocabulary_required,
        metavar="WORDS",
        help=VOCABULARY_HELP
        + (
            ""
            if vocabulary_required
            else " [those that the model was trained on; of COCO, with ADE20K's and LVIS's]"
        ),
    )
    add_things_and_stuff(parser)
    add("--recursive", action="store_true", help="enter the folders of folders")
    add("--allow-urls", action="store_true", help="download http(s) addresses")
    add_large(parser.add_argument_group("large images"))
    _add_results(parser.add_argument_group("results"), output)
    selection = parser.add_argument_group("which results")
    add_selection(selection)
    _add_background(selection)
    _add_speed(parser.add_argument_group("speed"))
    add_weights(parser)
    add("--ensemble", action="store_true", help="add SAM's own masks for what was never trained")
    add_model_options(parser)
    add_debug(parser)


def _add_results(group: argparse._ArgumentGroup, output: str) -> None:
    add = group.add_argument
    add("--output", default=output, type=Path, metavar="DIR", help="folder for the results [%(default)s]")
    add(
        "--formats",
        nargs="+",
        default=["overlay"],
        choices=FORMATS,
        metavar="FORMAT",
        help="overlay: images with what was found; html: a page of them; coco, coco-polygons, coco-panoptic, yolo, "
        "labelme, parquet: datasets; semantic: 16-bit PNG of class indices; instances: NPZ of masks [overlay]",
    )
    add("--task", choices=TASKS, help="what to compute [what the formats need; overlay: panoptic]")
    add("--overwrite", action="store_true", help="remove what an earlier run has left in the output")
    add("--json", action="store_true", help="print one JSON object per image or video")
    add("--max-frames", type=positive, metavar="N", help="of a video or webcam [all]")


def add_large(group: argparse._ArgumentGroup) -> None:
    """Adds the options for large images and small objects."""
    add = group.add_argument
    add(
        "--tile",
        type=positive,
        metavar="N",
        help="segment tiles of N pixels and join them: small objects [no tiles]",
    )
    add("--overlap", type=fraction, default=0.25, metavar="S", help="share of a tile, 0 to 0.5 [%(default)s]")
    add("--max-pixels", type=positive, metavar="N", help="larger images are refused [89 million]")


def tiling_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments `tile` and `overlap` of Predictor.predict; empty without --tile."""
    return {} if arguments.tile is None else {"tile": arguments.tile, "overlap": arguments.overlap}


def split_names(text: str | None) -> list[str] | None:
    """The value of --things or --stuff as a list."""
    return None if text is None else [name for name in text.split(";") if name.strip()]


def add_selection(group: argparse._ArgumentGroup) -> None:
    """Adds the options that filter segments and instances; see cmpf.inference.settings.SelectionOptions."""
    add = group.add_argument
    add("--min-score", type=fraction, metavar="S", help="least score of instances and segments, 0 to 1 [0.3]")
    add("--confidence-threshold", type=fraction, dest="min_score", default=argparse.SUPPRESS,
        help=argparse.SUPPRESS)  # fmt: skip  # the name in Detectron2's demo
    add("--max-instances", type=positive, metavar="N", help="the best of an image [as the config says]")
    add(
        "--nms",
        type=fraction,
        metavar="IOU",
        help="of instances that overlap more, the better one stays [0.7]",
    )
    add("--multi-label", action="store_true", help="a mask may be an instance of several classes")


def _add_background(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--background", action="store_true", help="semantic: pixels of no sure class are unlabeled, 65535")
    add("--min-semantic-score", type=fraction, metavar="S", help="what is sure for --background [0.3]")


def _add_speed(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--device",
        help="cpu, cuda, cuda:1, xpu, mps; cuda:0,1 for a model on each [a CUDA device if there is one]",
    )
    add("--processes", type=positive, metavar="N",
        help="models side by side, on the CPU [auto: one a core, as far as there are images and memory]")  # fmt: skip
    add("--batch-size", type=_batch_size, default=AUTO, metavar="N",
        help="images or frames in one pass [auto: 8 on CUDA, fewer where memory is short; 1 on a CPU]")  # fmt: skip
    add("--workers", type=positive, default=2, metavar="N", help="threads that read, and that write [2]")


def _batch_size(text: str) -> int | None:
    return None if text == AUTO else positive(text)
