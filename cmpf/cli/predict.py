# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf predict: segments images and videos into classes that the user names. demo/demo.py uses the same functions."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cmpf.cli.command import DONE, FAILED, TINY, Commands, add_command, add_model
from cmpf.cli.models import warn_of_photographs
from cmpf.cli.predict_options import add_options, add_webcam
from cmpf.cli.predict_request import PredictRequest
from cmpf.errors import ImageError

if TYPE_CHECKING:
    from cmpf.inference import Prediction
    from cmpf.labelling.pipeline import FinishedImage
    from cmpf.labelling.run import Summary
    from cmpf.labelling.sources import FoundSources, Source

EXAMPLES = """examples:
  cmpf predict street.jpg --vocabulary "car; person, pedestrian; road; sky" --output out/
  cmpf predict photos/ --recursive --vocabulary my_words.txt --formats overlay coco html --output out/
  cmpf predict 'photos/**/*.jpg' @more.txt --vocabulary openvocab_ade20k_panoptic_val --min-score 0.5
  cmpf predict photos/ --vocabulary "car; person" --formats yolo labelme --device cuda:0,1
  cmpf predict clip.mp4 --vocabulary "car; person; road" --batch-size 4
  cmpf predict --webcam --vocabulary "person; cup"
  cmpf predict street.jpg --vocabulary "car; road" --ensemble --opts TEST.ENSEMBLE.ALPHA 0.3 INPUT.MIN_SIZE_TEST 640

Separate classes with ";" and synonyms of a class with ",". To resume an interrupted run, repeat its command: finished
images are skipped. Unreadable images are skipped and listed at the end and in errors.csv; the exit code is then 1.
A video is written to NAME_overlay.mp4, without sound; videos and --webcam need: pip install "cmpf[video]"
"""
MAX_FILES = 2  # shown per image
MAX_LINES = 20  # images are listed if there are at most so many; also the maximum number of errors shown


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "predict",
        help="segment images and videos into classes that you name",
        description="Segments images, videos or a webcam into classes that you name.",
        examples=EXAMPLES,
    )
    sources = parser.add_mutually_exclusive_group(required=True)
    sources.add_argument(
        "images",
        nargs="*",
        default=[],
        metavar="IMAGE",
        help="images and videos: files, folders, quoted patterns such as 'photos/*.jpg', lists (@FILE or a .txt file "
        "with one input per line), or, with --allow-urls, http(s) URLs",
    )
    add_webcam(sources)
    add_model(parser)
    add_options(parser, output="output/predict")
    parser.set_defaults(run=run)


def run(arguments: Namespace, *, save: Callable[[Prediction], Sequence[Path]] | None = None) -> int:
    """Segments images and videos, writes the results, and reports inputs that cannot be read.

    Args:
        save: called with the prediction of each image instead of writing the output formats; returns the files that it
            has written.
    """
    from cmpf.formats.video import import_av
    from cmpf.labelling.sources import find_sources

    # Errors in paths and options are reported before a model is loaded.
    found = find_sources(arguments.images, recursive=arguments.recursive, exclude=arguments.output)
    has_video = arguments.webcam is not None or bool(found.videos)
    if has_video:
        import_av()
    request = PredictRequest(arguments)
    frame_formats = request.frame_formats() if has_video else []
    sources = found.sources(found.images)
    code = DONE
    any_segmented = save is not None
    if save is not None and sources:
        code = _predict_each(sources, request, save)
    elif sources:
        code, num_done = _predict_to_folder(sources, found, request)
        any_segmented = num_done > 0
    if has_video:
        from cmpf.cli.video import Videos

        videos = Videos(request, frame_formats)
        video_code = videos.camera() if arguments.webcam is not None else videos.files(found)
        any_segmented = any_segmented or video_code == DONE
        code = max(code, video_code)
    if any_segmented and arguments.model == TINY and not arguments.weights and arguments.webcam is None:
        warn_of_photographs([Path(path) for path in [*found.images, *found.videos]])
    return code


def _predict_to_folder(
    sources: Sequence[Source], found: FoundSources, request: PredictRequest
) -> tuple[int, int]:
    """Segments images into the output folder; returns the exit code and the number of segmented images."""
    from tqdm import tqdm

    from cmpf.engine.interrupts import StopRequest
    from cmpf.labelling.pipeline import Job
    from cmpf.labelling.run import RunOptions, label_images

    arguments = request.arguments
    job = Job(
        load_predictor=request.load_predictor,
        build_vocabulary=request.build_vocabulary,
        predict_options=request.predict_options,
        prepare_options=request.prepare_options,
        formats=request.formats,
        folder=arguments.output,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
    )
    options = RunOptions(
        request=request.request(),
        settings=request.settings(),
        devices=request.devices(),
        processes=arguments.processes,
        overwrite=arguments.overwrite,
    )
    many = len(sources) > 1
    with StopRequest() as stop, tqdm(total=len(sources), unit="image", disable=None if many else True) as bar:

        def on_start(resumed: int) -> None:
            bar.initial = bar.n = resumed  # so that the rate is that of this run

        def on_finished(image: FinishedImage) -> None:
            error = image.entry.record.error
            if error and arguments.debug:
                raise ImageError(error)
            if not error and (arguments.json or len(sources) <= MAX_LINES):
                tqdm.write(_line(image.source.location, image.files, image.class_counts, arguments.json))
            bar.update()

        summary = label_images(
            sources,
            job,
            options,
            on_start=on_start,
            on_finished=on_finished,
            should_stop=lambda: stop.requested,
        )
    _report(summary, found, arguments.output, many=many)
    return FAILED if summary.errors or summary.remaining else DONE, summary.done


def _predict_each(
    sources: Sequence[Source], request: PredictRequest, save: Callable[[Prediction], Sequence[Path]]
) -> int:
    """Segments images one by one and calls `save`; returns the exit code."""
    predictor, vocabulary = request.load()
    options = {**request.predict_options, **request.prepare_options}
    code = DONE
    for source in sources:
        try:
            (prediction,) = predictor.stream([source.location], vocabulary, **options)
        except ImageError as error:
            if request.arguments.debug:
                raise
            print(f"cmpf: {error}", file=sys.stderr)
            code = FAILED
            continue
        print(_line(source.location, save(prediction), prediction.summary(), request.arguments.json))
    return code


def _line(image: str, files: Sequence[Path], class_counts: Mapping[str, int], as_json: bool) -> str:
    """The output line of an image: its classes and files."""
    names = [str(file) for file in files]
    if as_json:
        return json.dumps({"image": image, "files": names, "found": class_counts}, ensure_ascii=False)
    counts = ", ".join(f"{count} {name}" for name, count in class_counts.items())
    more = f" and {len(names) - MAX_FILES} more" if len(names) > MAX_FILES else ""
    where = f" -> {', '.join(names[:MAX_FILES])}{more}" if names else ""
    return f"{image}: {counts or 'nothing found'}{where}"


def _report(summary: Summary, found: FoundSources, output: Path, *, many: bool) -> None:
    """Prints errors and the summary of a run on stderr."""
    say = partial(print, file=sys.stderr)
    for _, error in summary.errors[:MAX_LINES]:
        say(f"cmpf: {error}")
    if len(summary.errors) > MAX_LINES:
        say(f"cmpf: ... and {len(summary.errors) - MAX_LINES} more, see {output / 'errors.csv'}")
    for line in found.describe_skipped():
        say(f"skipped {line}")
    if many or summary.resumed or summary.remaining:
        count = summary.done + summary.failed
        each = f" in {summary.seconds:.0f} s, {summary.seconds / max(1, count):.2f} s each"
        parts = [f"{summary.done} {'image' if summary.done == 1 else 'images'}{each}"] if count else []
        for number, what in ((summary.failed, "failed"), (summary.resumed, "images already finished")):
            parts += [f"{number} {what}"] if number else []
        if summary.remaining:
            parts.append(f"stopped with {summary.remaining} left; run the same command again to resume")
        say(f"{'; '.join(parts)}. Results saved to {output}")
    for file in summary.files:
        say(f"  {file}")
