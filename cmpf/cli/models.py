# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf models: lists the models of the zoo, describes one, or downloads some."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cmpf.cli.command import DONE, TINY, Commands, add_command, add_debug

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cmpf.weights.zoo_entries import ZooEntry

EXAMPLES = """examples:
  cmpf models                                 list all models
  cmpf models fcclip_convnext_large           show a model's files, published metrics, license and citation
  cmpf models pull fcclip_convnext_large      download a model and check that it loads
"""
PULL = "pull"
ADE = "openvocab_ade20k_panoptic_val"
CLIP_TITLES = {"convnext_large_d_320": "ConvNeXt-L", "convnext_base_w_320": "ConvNeXt-B", "cmpf_tiny": "tiny"}
HEADER = ("name", "method", "CLIP", "GB", "speed", "PQ", "mIoU", "license", "here")
NOTES = """
GB: size of trained part and frozen encoders. speed: see docs/models.md. license: of the weights.
PQ, mIoU: on ADE20K, as published by the authors. Weights are downloaded from the authors' servers.
Run cmpf models NAME for details, cmpf models pull NAME to download."""

SHAPES_ONLY = f"""note: {TINY} was trained on generated shapes only. For photographs, download a full-size model:
  cmpf predict photo.jpg --model fcclip_convnext_large --vocabulary "cup; spoon; table"   (others: cmpf models)"""


def warn_of_photographs(images: Sequence[Path]) -> None:
    """Prints on stderr that the tiny model knows generated shapes only, unless all images belong to ShapeWorld."""
    if not (images and all(map(_is_generated, images))):
        print(SHAPES_ONLY, file=sys.stderr)


def _is_generated(image: Path) -> bool:
    """Whether an image lies in SPLIT/images/ of a folder with ShapeWorld's marker files."""
    from cmpf.shapeworld.writer import MARKER, VOCABULARIES

    root = image.absolute().parent.parent.parent
    return all((root / name).is_file() for name in (MARKER, *VOCABULARIES))


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "models",
        help="list, describe and download trained models",
        description="Lists the models of the zoo, describes one, or downloads some.",
        usage="cmpf models [NAME | pull NAME ...]",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "words", nargs="*", metavar="NAME | pull NAME", help="model to describe, or models to download"
    )
    add_debug(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Prints all models or one, or downloads some."""
    words = arguments.words
    if words[:1] == [PULL]:
        if len(words) == 1:
            arguments.usage_error("pull needs the NAME of a model")
        _pull(words[1:])
    elif len(words) > 1:
        arguments.usage_error(f"expected one NAME, or pull NAME ..., got {' '.join(words)}")
    else:
        print("\n".join(_description(words[0]) if words else _table()))
    return DONE


def _pull(names: list[str]) -> None:
    import cmpf
    from cmpf.weights.zoo import zoo_weights
    from cmpf.weights.zoo_entries import zoo_entry

    for name in names:
        zoo_entry(name)  # raises for an unknown name before the first download
    for name in names:
        cmpf.load(name)
        file = zoo_weights(name)
        print(f"{name}: ready, {file} ({file.stat().st_size / 1e6:,.0f} MB)")


def _table() -> Iterator[str]:
    from cmpf.weights.zoo_entries import zoo

    rows = [HEADER, *(_row(name, entry) for name, entry in zoo().items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
    yield NOTES


def _row(name: str, entry: ZooEntry) -> tuple[str, ...]:
    from cmpf.config import get_cfg
    from cmpf.weights.zoo_entries import METHODS

    clip = get_cfg(entry.config).MODEL.CMPF.CLIP.NAME
    ade = entry.published.get(ADE, {})
    return (
        name,
        METHODS[entry.method].title if entry.method else "CMPF",
        CLIP_TITLES.get(clip, clip.removesuffix("-quickgelu")),
        f"{entry.disk / 1000:.1f}" if entry.disk else "",
        entry.speed,
        *(f"{ade[metric]:.1f}" if metric in ade else "" for metric in ("panoptic/PQ", "sem_seg/mIoU")),
        entry.license,
        _download_state(name, entry),
    )


def _download_state(name: str, entry: ZooEntry) -> str:
    from cmpf.weights.download import partial_path
    from cmpf.weights.zoo import published_file, small_file

    target = published_file(name, entry)
    if entry.asset or target.is_file() or small_file(name).is_file():
        return "yes"
    return "part" if partial_path(target).is_file() else "no"


def _description(name: str) -> Iterator[str]:
    from cmpf.config import get_cfg
    from cmpf.weights.zoo import published_file, small_file, zoo_remote
    from cmpf.weights.zoo_entries import METHODS, zoo_entry

    entry = zoo_entry(name)
    cfg = get_cfg(entry.config).MODEL.CMPF
    yield name
    if entry.method:
        method = METHODS[entry.method]
        yield f"  method     {method.title}: {method.adds}"
        yield f"  authors    {method.page}"
    yield f"  best at    {entry.best}"
    sam = f"SAM {cfg.SAM.NAME}" if cfg.SAM.NAME else "no SAM"
    yield f"  encoders   CLIP {cfg.CLIP.NAME} ({cfg.CLIP.PRETRAINED}), {sam}"
    yield f"  config     {entry.config}{''.join(f', {key} {value}' for key, value in entry.overrides.items())}"
    yield f"  license    {entry.license} (of the weights)"
    if not entry.asset:
        target, remote = published_file(name, entry), zoo_remote(name, entry)
        yield f"  address    {remote.page or remote.url}"
        yield f"  file       {target} ({'downloaded' if target.is_file() else 'not downloaded'})"
        yield f"  small file {small_file(name)} ({'created' if small_file(name).is_file() else 'not created yet'})"
        yield f"  SHA-256    {_hash(name, entry)}"
    for dataset, figures in entry.published.items():
        yield f"  published  {dataset}: {', '.join(f'{metric} {value}' for metric, value in figures.items())}"
    yield f'  use        cmpf predict photo.jpg --model {name} --vocabulary "cup; spoon; table"'
    if entry.method:
        yield from ("", "cite:", METHODS[entry.method].citation)


def _hash(name: str, entry: ZooEntry) -> str:
    from cmpf.weights.download import recorded_hash
    from cmpf.weights.zoo import published_file

    if entry.sha256:
        return f"{entry.sha256} (published)"
    if recorded := recorded_hash(published_file(name, entry)):
        return f"{recorded} (of the first download)"
    return "none is published; the first download's is recorded"
