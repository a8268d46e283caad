# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Segments images, a video or a webcam into classes that you name, with the flags of Detectron2's demo."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cmpf.cli.outcome import add_debug, run_command  # noqa: E402  (works in a checkout that is not installed)
from cmpf.errors import CMPFError  # noqa: E402

if TYPE_CHECKING:
    from cmpf.inference import Prediction
    from cmpf.predictor import Predictor

TASKS = ("all", "panoptic", "semantic", "instance")
FORMATS = ("overlay", "panoptic", "coco", "semantic", "instances")  # cmpf.inference.FORMATS, without torch
EXAMPLES = """examples:
  python demo/demo.py --input demo/shapes.jpg --vocabulary "red triangle; green star; blue bolt; brick; tiles; road"
  python demo/demo.py --input photos/ extra/*.jpg --vocabulary "cat; dog, puppy; grass" --output out/
  python demo/demo.py --input a.jpg --vocabulary my_words.txt --task panoptic --formats overlay panoptic
  python demo/demo.py --input a.jpg --vocabulary openvocab_ade20k_panoptic_val --confidence-threshold 0.5
  python demo/demo.py --video-input clip.mp4 --vocabulary "car; person; road" --output out/
  python demo/demo.py --config-file configs/coco/cmpf/convnext_large_eval_ade20k.yaml --input a.jpg \\
      --vocabulary "cat; dog" --opts MODEL.WEIGHTS cmpf_convnext_large.pth MODEL.DEVICE cpu

classes are separated by ";", synonyms of a class by ",". Without --config-file the tiny model runs, which knows
generated images only, such as demo/shapes.jpg. Video and webcam need: pip install "cmpf[video]".
exit codes: 0 done, 1 error, 2 wrong usage. A video that was stopped goes on with the same command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo and returns the exit code."""
    return run_command(_parser().parse_args(argv), prefix="demo.py")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="demo.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input",
        nargs="+",
        metavar="IMAGE",
        help='files, folders or quoted patterns such as "photos/*.jpg"',
    )
    source.add_argument("--video-input", metavar="FILE", help="a video; its sound is not copied")
    source.add_argument(
        "--webcam", type=int, nargs="?", const=0, metavar="N", help="camera number N [0]; q or Ctrl-C ends"
    )
    _add_model(parser)
    _add_results(parser)
    add_debug(parser)
    parser.set_defaults(run=run)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config-file",
        default="cmpf_tiny",
        metavar="FILE",
        help="config, or what cmpf.load takes: zoo name, folder, Hub repository [cmpf_tiny]",
    )
    parser.add_argument(
        "--vocabulary",
        default="",
        metavar="WORDS",
        help='"cat; dog, puppy; grass", a file of words, or the name or YAML file of a dataset '
        "[the classes that the model was trained on]",
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--stuff", metavar="WORDS", help='classes not counted one by one: "sky; grass"')
    kinds.add_argument("--things", metavar="WORDS", help="classes counted one by one; all others are stuff")
    parser.add_argument("--task", default="all", choices=TASKS, help="what to compute [all]")
    parser.add_argument("--ensemble", action="store_true", help="add SAM's own masks (semantic results)")
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="changes to the configuration; comes last",
    )


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, default=Path("output/demo_predictions"), metavar="DIR", help="[%(default)s]"
    )
    parser.add_argument(
        "--formats",
        nargs="+",
        default=["overlay"],
        choices=FORMATS,
        help="overlay: images; panoptic: COCO PNG + JSON; coco: COCO results of instances; semantic: 16-bit PNG; "
        "instances: NPZ of masks [overlay]",
    )
    parser.add_argument(
        "--confidence-threshold",
        type=_fraction,
        metavar="SCORE",
        help="leave out instances and segments with a lower score, 0 to 1 [as the config says]",
    )
    parser.add_argument("--batch-size", type=int, default=1, help="images in one pass [1]")
    parser.add_argument("--max-frames", type=int, metavar="N", help="of a video or webcam [all]")


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text}")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Segments what the command line names."""
    from cmpf.formats.image_files import find_images

    images = find_images(arguments.input) if arguments.input else []  # before a model is loaded
    if arguments.max_frames is not None and arguments.max_frames < 1:
        raise CMPFError(f"--max-frames must be at least 1, got {arguments.max_frames}")
    if not images:
        from demo import video

        video.check_cv2()
    from cmpf.factory import load_predictor, use_threads

    predictor = load_predictor(arguments.config_file, overrides=arguments.opts)
    use_threads(predictor.cfg)
    options = _options(arguments, predictor)
    if images:
        return _run_images(arguments, predictor, options, images)
    if arguments.video_input:
        return video.run_video(arguments, predictor, options)
    return video.run_camera(arguments, predictor, options)


def _options(arguments: argparse.Namespace, predictor: Predictor) -> dict[str, Any]:
    """Arguments of Predictor.stream."""
    words = arguments.vocabulary or predictor.model.train_vocabulary
    return {
        "vocabulary": predictor.vocabulary(
            words, things=_names(arguments.things), stuff=_names(arguments.stuff)
        ),
        "task": arguments.task,
        "ensemble": arguments.ensemble or None,
        "batch_size": arguments.batch_size,
    }


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name for name in text.split(";") if name.strip()]


def confident(prediction: Prediction, arguments: argparse.Namespace) -> Prediction:
    """The prediction with --confidence-threshold applied."""
    threshold = arguments.confidence_threshold
    return prediction if threshold is None else prediction.above(threshold)


def _run_images(
    arguments: argparse.Namespace, predictor: Predictor, options: dict[str, Any], images: Sequence[Path]
) -> int:
    from tqdm import tqdm

    from cmpf.inference import unique_names

    predictions = predictor.stream(images, **options)
    for image, name, prediction in zip(
        tqdm(images, unit="image", disable=None), unique_names(images), predictions, strict=True
    ):
        kept = confident(prediction, arguments)
        files = kept.save(arguments.output, arguments.formats, name=name)
        found = ", ".join(f"{count} {word}" for word, count in kept.summary().items())
        tqdm.write(f"{image}: {found or 'nothing'} -> {', '.join(map(str, files))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
