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
    'classes: "car; person, pedestrian; sky", a vocabulary .txt file, or a dataset (name or YAML file)'
)


def add_webcam(sources: argparse._ActionsContainer) -> None:
    """Adds --webcam."""
    sources.add_argument(
        "--webcam",
        type=int,
        nargs="?",
        const=0,
        metavar="N",
        help="segment camera number N [0] until Ctrl-C; the latest result is webcam_latest.jpg in the output folder",
    )


def add_things_and_stuff(options: argparse._ActionsContainer) -> None:
    """Adds --stuff and --things."""
    group = options.add_mutually_exclusive_group()
    group.add_argument("--stuff", metavar="WORDS", help='classes without instances: "road; sky"')
    group.add_argument("--things", metavar="WORDS", help="classes with instances; all others are stuff")


def add_options(
    parser: argparse.ArgumentParser, *, output: str, min_score: float = 0.3, vocabulary_required: bool = True
) -> None:
    """Adds all options but those that name the inputs and the model.

    Args:
        output: default output folder.
        min_score: default of --min-score that the help text shows.
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
            else " [the model's training classes; for COCO, also those of ADE20K and LVIS]"
        ),
    )
    add_things_and_stuff(parser)
    add("--recursive", action="store_true", help="also search subfolders")
    add("--allow-urls", action="store_true", help="allow http(s) URLs as inputs")
    add_large(parser.add_argument_group("large images"))
    _add_results(parser.add_argument_group("results"), output)
    selection = parser.add_argument_group("filtering")
    add_selection(selection, min_score)
    _add_background(selection)
    _add_speed(parser.add_argument_group("speed"))
    add_weights(parser)
    add("--ensemble", action="store_true", help="add SAM's masks for classes not seen in training")
    add_model_options(parser)
    add_debug(parser)


def _add_results(group: argparse._ArgumentGroup, output: str) -> None:
    add = group.add_argument
    add("--output", default=output, type=Path, metavar="DIR", help=f"output folder [{output}]")
    add(
        "--formats",
        nargs="+",
        default=["overlay"],
        choices=FORMATS,
        metavar="FORMAT",
        help="one or more of: overlay (images with segments drawn), html (a page of overlays), semantic (16-bit PNG of "
        "class indices), instances (NPZ of masks), coco, coco-polygons, coco-panoptic, yolo, labelme, parquet "
        "(datasets) [overlay]",
    )
    add("--task", choices=TASKS, help="results to compute [those that the formats need; overlay: panoptic]")
    add("--overwrite", action="store_true", help="delete the results of earlier runs in the output folder")
    add("--json", action="store_true", help="print one JSON object per image or video")
    add("--max-frames", type=positive, metavar="N", help="maximum number of video or webcam frames [all]")


def add_large(group: argparse._ArgumentGroup) -> None:
    """Adds the options for large images and small objects."""
    add = group.add_argument
    add(
        "--tile",
        type=positive,
        metavar="N",
        help="segment tiles of N x N pixels and merge the results, for small objects [off]",
    )
    add(
        "--overlap",
        type=fraction,
        default=0.25,
        metavar="S",
        help="overlap of neighboring tiles as a fraction of the tile size, 0 to 0.5 [%(default)s]",
    )
    add("--max-pixels", type=positive, metavar="N", help="reject images with more pixels [89 million]")


def tiling_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments `tile` and `overlap` of Predictor.predict; empty without --tile."""
    return {} if arguments.tile is None else {"tile": arguments.tile, "overlap": arguments.overlap}


def split_names(text: str | None) -> list[str] | None:
    """The value of --things or --stuff as a list."""
    return None if text is None else [name for name in text.split(";") if name.strip()]


def add_selection(group: argparse._ArgumentGroup, min_score: float = 0.3) -> None:
    """Adds the options that filter segments and instances; see cmpf.inference.settings.SelectionOptions.

    Args:
        min_score: default of --min-score that the help text shows.
    """
    add = group.add_argument
    add(
        "--min-score",
        type=fraction,
        metavar="S",
        help=f"minimum score of segments and instances, 0 to 1 [{min_score}]",
    )
    add("--confidence-threshold", type=fraction, dest="min_score", default=argparse.SUPPRESS,
        help=argparse.SUPPRESS)  # fmt: skip  # the name in Detectron2's demo
    add(
        "--max-instances",
        type=positive,
        metavar="N",
        help="maximum number of instances per image [from config]",
    )
    add(
        "--nms",
        type=fraction,
        metavar="IOU",
        help="drop an instance if its IoU with a higher-scoring one is larger; 1 = off [0.7]",
    )
    add("--multi-label", action="store_true", help="allow one mask to be an instance of several classes")


def _add_background(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--background", action="store_true", help="semantic: label low-scoring pixels as unlabeled (65535)")
    add(
        "--min-semantic-score",
        type=fraction,
        metavar="S",
        help="minimum score of a labeled pixel; implies --background [0.3]",
    )


def _add_speed(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--device",
        help="cpu, cuda, cuda:1, xpu or mps; cuda:0,1 = one model per GPU [CUDA if available, else CPU]",
    )
    add("--processes", type=positive, metavar="N",
        help="parallel models on the CPU [auto: one per core, limited by images and memory]")  # fmt: skip
    add("--batch-size", type=_batch_size, default=AUTO, metavar="N",
        help="images or frames per forward pass [auto: 8 on CUDA, fewer if memory is short; 1 on CPU]")  # fmt: skip
    add(
        "--workers",
        type=positive,
        default=2,
        metavar="N",
        help="number of reader threads, and of writer threads [2]",
    )


def _batch_size(text: str) -> int | None:
    return None if text == AUTO else positive(text)
