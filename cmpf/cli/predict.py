# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf predict: segments images and videos into classes that the user names. demo/demo.py is the same thing."""

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
from cmpf.cli.predict_choice import Chosen
from cmpf.cli.predict_options import add_options, add_webcam
from cmpf.errors import ImageError

if TYPE_CHECKING:
    from cmpf.inference import Prediction
    from cmpf.labelling.pipeline import Finished
    from cmpf.labelling.run import Summary
    from cmpf.labelling.sources import Found, Source

EXAMPLES = """examples:
  cmpf predict street.jpg --vocabulary "car; person, pedestrian; road; sky" --output out/
  cmpf predict photos/ --recursive --vocabulary my_words.txt --formats overlay coco html --output out/
  cmpf predict 'photos/**/*.jpg' @more.txt --vocabulary openvocab_ade20k_panoptic_val --min-score 0.5
  cmpf predict photos/ --vocabulary "car; person" --formats yolo labelme --device cuda:0,1
  cmpf predict clip.mp4 --vocabulary "car; person; road" --batch-size 4
  cmpf predict --webcam --vocabulary "person; cup"
  cmpf predict street.jpg --vocabulary "car; road" --ensemble --opts TEST.ENSEMBLE.ALPHA 0.3 INPUT.MIN_SIZE_TEST 640

classes are separated by ";", synonyms of a class by ",". A run that was stopped goes on with the same command; what is
finished is not done again. Images that cannot be read are named at the end and in errors.csv, the others are done, and
the exit code is 1. A video becomes NAME_overlay.mp4, without sound; videos and --webcam need: pip install "cmpf[video]"
"""
NAMED = 2  # files of an image
MANY = 20  # images that get a line each, and errors that are named


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "predict",
        help="segment images and videos into classes that you name",
        description="Segments images, videos or what a camera sees into classes that you name.",
        examples=EXAMPLES,
    )
    sources = parser.add_mutually_exclusive_group(required=True)
    sources.add_argument(
        "images",
        nargs="*",
        default=[],
        metavar="IMAGE",
        help="images and videos: files, folders, quoted patterns such as 'photos/*.jpg', @FILE or a .txt with one a "
        "line, http(s) addresses with --allow-urls",
    )
    add_webcam(sources)
    add_model(parser)
    add_options(parser, output="output/predict")
    parser.set_defaults(run=run)


def run(arguments: Namespace, *, save: Callable[[Prediction], Sequence[Path]] | None = None) -> int:
    """Segments the images and videos and writes the results; those that cannot be read are named.

    Args:
        save: brings an image's results to the user in place of files in the output folder; gives the files.
    """
    from cmpf.formats.video import import_av
    from cmpf.labelling.sources import find_sources

    # Before a model is loaded, so that a wrong path is said at once.
    found = find_sources(arguments.images, recursive=arguments.recursive, without=arguments.output)
    moving = arguments.webcam is not None or bool(found.videos)
    if moving:
        import_av()
    chosen = Chosen(arguments)
    formats = chosen.formats_of_frames() if moving else []
    sources = found.sources(found.images)
    code = DONE
    seen = moving or save is not None
    if save is not None and sources:
        code = _shown(sources, chosen, save)
    elif sources:
        code, done = _labelled(sources, found, chosen)
        seen = seen or done
    if moving:
        from cmpf.cli.video import Videos

        videos = Videos(arguments, *chosen.loaded(), chosen.predict, formats)
        code = max(code, videos.camera() if arguments.webcam is not None else videos.files(found))
    if seen and arguments.model == TINY and not arguments.weights and arguments.webcam is None:
        warn_of_photographs([Path(given) for given in [*found.images, *found.videos]])
    return code


def _labelled(sources: Sequence[Source], found: Found, chosen: Chosen) -> tuple[int, bool]:
    """Images into the output folder; the exit code, and whether anything was segmented."""
    from tqdm import tqdm

    from cmpf.engine.interrupts import StopRequest
    from cmpf.labelling.pipeline import Work
    from cmpf.labelling.run import Options, label_images

    arguments = chosen.arguments
    work = Work(
        load=chosen.load,
        words=chosen.words,
        predict=chosen.predict,
        formats=chosen.formats,
        folder=arguments.output,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        reading=chosen.reading,
    )
    options = Options(
        request=chosen.request(),
        settings=chosen.settings(),
        devices=chosen.devices(),
        processes=arguments.processes,
        overwrite=arguments.overwrite,
    )
    many = len(sources) > 1
    with StopRequest() as stop, tqdm(total=len(sources), unit="image", disable=None if many else True) as bar:

        def tell(finished: Finished) -> None:
            error = finished.entry.record.error
            if error and arguments.debug:
                raise ImageError(error)
            if not error and (arguments.json or len(sources) <= MANY):
                tqdm.write(_line(finished.source.given, finished.files, finished.found, arguments.json))
            bar.update()

        def begin(before: int) -> None:
            bar.initial = bar.n = before  # the rate is that of this run

        def stopped() -> bool:
            return stop.requested

        summary = label_images(sources, work, options, begin=begin, tell=tell, stopped=stopped)
    _report(summary, found, arguments.output, many=many)
    return FAILED if summary.errors or summary.left else DONE, summary.done > 0


def _shown(sources: Sequence[Source], chosen: Chosen, save: Callable[[Prediction], Sequence[Path]]) -> int:
    """Images to the user, one by one."""
    predictor, words = chosen.loaded()
    code = DONE
    for source in sources:
        try:
            (prediction,) = predictor.stream([source.given], words, **chosen.predict, **chosen.reading)
        except ImageError as error:
            if chosen.arguments.debug:
                raise
            print(f"cmpf: {error}", file=sys.stderr)
            code = FAILED
            continue
        print(_line(source.given, save(prediction), prediction.summary(), chosen.arguments.json))
    return code


def _line(image: str, files: Sequence[Path], found: Mapping[str, int], as_json: bool) -> str:
    names = [str(file) for file in files]
    if as_json:
        return json.dumps({"image": image, "files": names, "found": found}, ensure_ascii=False)
    words = ", ".join(f"{count} {name}" for name, count in found.items())
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    where = f" -> {', '.join(names[:NAMED])}{more}" if names else ""
    return f"{image}: {words or 'nothing'}{where}"


def _report(summary: Summary, found: Found, output: Path, *, many: bool) -> None:
    """How it ended, on stderr."""
    say = partial(print, file=sys.stderr)
    for _, error in summary.errors[:MANY]:
        say(f"cmpf: {error}")
    if len(summary.errors) > MANY:
        say(f"cmpf: ... and {len(summary.errors) - MANY} more, see {output / 'errors.csv'}")
    for line in found.left_out():
        say(f"left out: {line}")
    if many or summary.before or summary.left:
        count = summary.done + summary.failed
        each = f" in {summary.seconds:.0f} s, {summary.seconds / max(1, count):.2f} s each"
        parts = [f"{summary.done} images{each}"] if count else []
        for number, what in ((summary.failed, "failed"), (summary.before, "images were finished before")):
            parts += [f"{number} {what}"] if number else []
        if summary.left:
            parts.append(f"stopped with {summary.left} to go: the same command goes on")
        say(f"{'; '.join(parts)}. Results: {output}")
    for file in summary.files:
        say(f"  {file}")
