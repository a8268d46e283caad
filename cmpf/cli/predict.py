# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf predict: segments images and videos into classes that the user names. demo/demo.py is the same thing."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cmpf.cli.models import TINY, warn_of_photographs
from cmpf.cli.outcome import DONE, FAILED, add_debug, add_model_options, load_model
from cmpf.errors import ImageError

if TYPE_CHECKING:
    from cmpf.cli.outcome import Commands
    from cmpf.formats.image import ImageSource
    from cmpf.inference import Prediction

EXAMPLES = """examples:
  cmpf predict street.jpg --vocabulary "car; person, pedestrian; road; sky" --output out/
  cmpf predict photos/ --vocabulary my_words.txt --task semantic --formats overlay semantic
  cmpf predict 'photos/**/*.jpg' --vocabulary openvocab_ade20k_panoptic_val --confidence-threshold 0.5
  cmpf predict clip.mp4 --vocabulary "car; person; road" --batch-size 4
  cmpf predict --webcam --vocabulary "person; cup"
  cmpf predict street.jpg --vocabulary "car; road" --model output/mine --device cpu --json
  cmpf predict street.jpg --vocabulary "car; road" --ensemble --opts TEST.ENSEMBLE.ALPHA 0.3 INPUT.MIN_SIZE_TEST 640

classes are separated by ";", synonyms of a class by ",". Images that cannot be read are named and the others done;
then the exit code is 1. The files of an image are whole or not there. A video becomes NAME_overlay.mp4, without
sound, and one that was stopped goes on with the same command. Videos and --webcam need: pip install "cmpf[video]"
"""
TASKS = ("all", "panoptic", "semantic", "instance")
FORMATS = ("overlay", "panoptic", "coco", "semantic", "instances")  # cmpf.inference.FORMATS, without torch


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "predict",
        help="segment images and videos into classes that you name",
        description="Segments images, videos or what a camera sees into classes that you name.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sources = parser.add_mutually_exclusive_group(required=True)
    sources.add_argument(
        "images",
        nargs="*",
        default=[],
        metavar="IMAGE",
        help="images and videos: files, folders of images, or quoted patterns such as 'photos/*.jpg'",
    )
    add_webcam(sources)
    parser.add_argument(
        "--model",
        default=TINY,
        metavar="NAME",
        help="zoo name, config path, model folder or Hub repository [%(default)s]",
    )
    add_options(parser, output="output/predict")
    parser.set_defaults(run=run)


def add_webcam(sources: argparse._ActionsContainer) -> None:
    """The camera, in place of files."""
    sources.add_argument(
        "--webcam",
        type=int,
        nargs="?",
        const=0,
        metavar="N",
        help="camera number N [0]; the latest image is webcam_latest.jpg in the output folder, Ctrl-C ends",
    )


def add_options(parser: argparse.ArgumentParser, *, output: str, own_words: bool = True) -> None:
    """What is looked for, how, and where the results go.

    Args:
        output: the usual folder of the results.
        own_words: whether --vocabulary must be given, or else the classes are those that the model was trained on.
    """
    words = '"car; person, pedestrian; sky", a vocabulary .txt file, or the name or YAML file of a dataset'
    add = parser.add_argument
    add(
        "--vocabulary",
        required=own_words,
        metavar="WORDS",
        help=f"classes: {words}"
        + ("" if own_words else " [those that the model was trained on; of COCO, with ADE20K's and LVIS's]"),
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--stuff", metavar="WORDS", help='classes not counted one by one: "road; sky"')
    kinds.add_argument("--things", metavar="WORDS", help="classes counted one by one; all others are stuff")
    add("--weights", metavar="FILE", help="trained weights that replace the model's own")
    add("--task", default="all", choices=TASKS, help="what to compute [%(default)s]")
    add("--ensemble", action="store_true", help="add SAM's own masks for what was never trained")
    add("--device", help="cpu, cuda, cuda:1 [a CUDA device if there is one]")
    add("--batch-size", type=_positive, default=1, metavar="N", help="images or frames in one pass [1]")
    add("--max-frames", type=_positive, metavar="N", help="of a video or webcam [all]")
    _add_results(parser, output)
    add_model_options(parser)
    add_debug(parser)


def _add_results(parser: argparse.ArgumentParser, output: str) -> None:
    add = parser.add_argument
    add("--output", default=output, type=Path, metavar="DIR", help="folder for the results [%(default)s]")
    add(
        "--formats",
        nargs="+",
        default=["overlay"],
        choices=FORMATS,
        help="overlay: images; panoptic: COCO PNG + JSON; coco: COCO results of instances; semantic: 16-bit PNG; "
        "instances: NPZ of masks. Of a video, all but the overlay are files of each frame [overlay]",
    )
    add(
        "--confidence-threshold",
        type=_fraction,
        metavar="SCORE",
        help="leave out instances and segments with a lower score, 0 to 1 [as the config says]",
    )
    add("--json", action="store_true", help="print one JSON object an image or video")


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text}")
    return value


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text}")
    return int(text)


def run(arguments: argparse.Namespace, *, save: Callable[[Prediction], Sequence[Path]] | None = None) -> int:
    """Segments the images and videos and writes the results; those that cannot be read are named.

    Args:
        save: brings an image's results to the user in place of files in the output folder; gives the files.
    """
    from cmpf.formats.image_files import find_images
    from cmpf.formats.video import import_av, is_video

    sources = find_images(arguments.images)  # before a model is loaded
    if arguments.webcam is not None or any(map(is_video, sources)):
        import_av()
    from tqdm import tqdm

    from cmpf.formats.image_files import unique_names

    work = _Work(arguments)
    if arguments.webcam is not None:
        return work.camera()
    names = dict(zip(sources, unique_names(sources), strict=True))
    images = [source for source in sources if not is_video(source)]
    bar = tqdm(
        total=len(images), unit="image", disable=None if len(images) > 1 else True
    )  # None: on a terminal
    with bar:
        for image, found in work.images(images):
            if isinstance(found, ImageError):
                work.failed(found)
            else:
                own = partial(found.save, arguments.output, arguments.formats, name=names[image])
                files = save(found) if save else own()
                work.tell(image, files, found=found.summary())
                work.done = True
            bar.update()
    for video in filter(is_video, sources):
        try:
            work.video(video, names[video])
            work.done = True
        except ImageError as error:
            work.failed(error)
    if work.done and arguments.model == TINY and not arguments.weights:
        warn_of_photographs(sources)
    return work.code


class _Work:
    """A loaded model, and what a command line wants done with each image.

    code: the exit code so far. done: whether anything was segmented.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        from cmpf.factory.vocabularies import demo_vocabulary

        # The ensemble's SAM is part of the model.
        ensemble = ["TEST.ENSEMBLE.ENABLED", True] if arguments.ensemble else []
        self.predictor = load_model(arguments, device=arguments.device, overrides=ensemble)
        self.arguments, self.code, self.done = arguments, DONE, False
        self.words = self.predictor.vocabulary(
            arguments.vocabulary
            or demo_vocabulary(self.predictor.model.train_vocabulary, self.predictor.cfg),
            things=_names(arguments.things),
            stuff=_names(arguments.stuff),
        )

    def stream(self, images: Iterable[ImageSource]) -> Iterator[Prediction]:
        """One prediction an image, without what is below --confidence-threshold."""
        arguments, threshold = self.arguments, self.arguments.confidence_threshold
        found = self.predictor.stream(
            images,
            self.words,
            task=arguments.task,
            ensemble=arguments.ensemble or None,
            batch_size=arguments.batch_size,
        )
        return found if threshold is None else (prediction.above(threshold) for prediction in found)

    def images(self, paths: Sequence[Path]) -> Iterator[tuple[Path, Prediction | ImageError]]:
        """What was found in each image, or why it cannot be read."""
        size = self.arguments.batch_size
        for start in range(0, len(paths), size):
            yield from self._batch(paths[start : start + size])

    def _batch(self, paths: Sequence[Path]) -> Iterator[tuple[Path, Prediction | ImageError]]:
        try:
            yield from zip(paths, list(self.stream(paths)), strict=True)
        except ImageError as error:
            if len(paths) > 1:  # one of them
                yield from (pair for path in paths for pair in self._batch([path]))
            else:
                yield paths[0], error

    def video(self, path: Path, name: str) -> None:
        """Segments a video and says where the result is."""
        from cmpf.cli.video import segment_video, video_settings

        arguments = self.arguments
        report = segment_video(
            path,
            segment=self.stream,
            output=arguments.output,
            name=name,
            formats=arguments.formats,
            settings=video_settings(arguments, self.words),
            max_frames=arguments.max_frames,
        )
        if report.warning:
            print(f"warning: {report.warning}", file=sys.stderr)
        if arguments.json:
            line = {"video": str(path), "files": [str(report.file)], "frames": report.frames}
            print(json.dumps(line, ensure_ascii=False))
        else:
            rate = f"{float(report.rate):g} a second, without sound"
            print(f"{path}: {report.frames} frames at {rate} -> {report.file}")

    def camera(self) -> int:
        """Segments what a camera sees until Ctrl-C, and returns the exit code."""
        from cmpf.cli.video import segment_camera

        arguments = self.arguments
        arguments.batch_size = 1  # a live image does not wait for others
        seen = segment_camera(
            arguments.webcam, segment=self.stream, output=arguments.output, max_frames=arguments.max_frames
        )
        print(f"camera {arguments.webcam}: {seen} frames")
        return DONE

    def tell(self, image: Path, files: Sequence[Path], *, found: Mapping[str, int]) -> None:
        """One line about an image, above the progress bar."""
        from tqdm import tqdm

        names = [str(file) for file in files]
        if self.arguments.json:
            line = json.dumps({"image": str(image), "files": names, "found": found}, ensure_ascii=False)
        else:
            words = ", ".join(f"{count} {name}" for name, count in found.items())
            line = f"{image}: {words or 'nothing'} -> {', '.join(names) or 'a window'}"
        tqdm.write(line)

    def failed(self, error: ImageError) -> None:
        """One line about an image that cannot be read; --debug ends there."""
        from tqdm import tqdm

        if self.arguments.debug:
            raise error
        tqdm.write(f"cmpf: {error}", file=sys.stderr)
        self.code = FAILED


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name for name in text.split(";") if name.strip()]
