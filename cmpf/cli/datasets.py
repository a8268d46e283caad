# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf datasets: what there is, whether it is there and whole, what is wrong with it, and how it looks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cmpf.cli.dataset_names import dataset_name
from cmpf.cli.outcome import DONE, FAILED, add_debug

if TYPE_CHECKING:
    from cmpf.cli.outcome import Commands

EXAMPLES = """examples:
  cmpf datasets                                     all datasets that have a name
  cmpf datasets openvocab_ade20k_panoptic_val       one of them: paths, sizes, classes
  cmpf datasets fruit_val.yaml --classes            your own, with the names of its classes
  cmpf datasets check fruit_val.yaml                open every file and tell what is wrong; exit code 1 if so
  cmpf datasets show fruit_val.yaml --n 8 --output images/        draw ground truth
  cmpf datasets show fruit_train.yaml --augmented --config-file configs/shapes/cmpf_tiny.yaml
"""
COCO = "openvocab_coco_2017_train_panoptic_with_sem_seg"
CHECK, SHOW = "check", "show"
OVERVIEW = "overview.png"


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "datasets",
        help="list, check and show datasets",
        description="Lists datasets, describes one, checks its files, or draws its ground truth.",
        usage="cmpf datasets [check | show] [NAME | FILE.yaml] [options]",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words", nargs="*", metavar="[check | show] [NAME | FILE.yaml]", help=argparse.SUPPRESS
    )
    parser.add_argument("--classes", action="store_true", help="list the names of the classes")
    parser.add_argument(
        "--against", default=COCO, metavar="NAME", help=f"dataset whose classes are the seen ones [{COCO}]"
    )
    parser.add_argument("--json", action="store_true", help="print JSON (list, description and findings)")
    checking = parser.add_argument_group("check")
    checking.add_argument("--all", action="store_true", help="name every finding, not the first of each kind")
    showing = parser.add_argument_group("show")
    showing.add_argument("--n", type=_count, default=8, help="how many images, chosen at random [8]")
    showing.add_argument("--seed", type=int, default=0, help="other images and augmentations [0]")
    showing.add_argument("--output", metavar="DIR", help="folder for the images [output/datasets/NAME]")
    showing.add_argument("--augmented", action="store_true", help="what training sees of them")
    showing.add_argument(
        "--config-file", metavar="FILE", help="whose augmentations; a YAML file or its name [the defaults]"
    )
    add_debug(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Does what the words ask for."""
    words = list(arguments.words)
    action = words.pop(0) if words and words[0] in (CHECK, SHOW) else ""
    if len(words) > 1 or (action and not words):
        arguments.usage_error(f"expected {action or 'at most'} one dataset, got {' '.join(words) or 'none'}")
    if not words:
        return _list(as_json=arguments.json)
    name = dataset_name(words[0])
    if action == CHECK:
        return _check(name, everything=arguments.all, as_json=arguments.json)
    return _show(name, arguments) if action == SHOW else _describe(name, arguments)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text}")
    return int(text)


def _list(*, as_json: bool) -> int:
    from cmpf.cli.dataset_report import table

    print(table(as_json=as_json))
    return DONE


def _describe(name: str, arguments: argparse.Namespace) -> int:
    from cmpf.cli.dataset_report import description, description_json
    from cmpf.data.datasets.catalog import get_vocabulary
    from cmpf.data.datasets.summary import summarize

    summary = summarize(name, get_vocabulary(dataset_name(arguments.against)))
    if arguments.json:
        print(description_json(summary))
    else:
        print(description(summary, against=arguments.against, classes=arguments.classes))
    return DONE


def _check(name: str, *, everything: bool, as_json: bool) -> int:
    from cmpf.cli.dataset_report import findings_json, findings_text
    from cmpf.data.datasets.catalog import get_spec
    from cmpf.data.datasets.validate import check_dataset

    findings = check_dataset(name, progress=True)
    if as_json:
        print(findings_json(findings))
        return FAILED if findings else DONE
    if not findings:
        print(f"{get_spec(name).name}: every file was opened, nothing is wrong")
        return DONE
    print(f"{get_spec(name).name}: {len(findings)} finding{'s' if len(findings) > 1 else ''}")
    print(findings_text(findings, everything=everything))
    return FAILED


def _show(name: str, arguments: argparse.Namespace) -> int:
    import numpy as np

    from cmpf.cli.ground_truth import chosen_samples, from_files, from_training
    from cmpf.common.files import replacing
    from cmpf.config import get_cfg
    from cmpf.data.datasets.catalog import get_dataset
    from cmpf.factory.training import build_train_mapper
    from cmpf.visualization.ground_truth import contact_sheet, draw_ground_truth

    dataset = get_dataset(name)
    folder = Path(arguments.output or Path("output", "datasets", dataset.name))
    rng = np.random.default_rng(arguments.seed)
    mapper = build_train_mapper(get_cfg(arguments.config_file), dataset) if arguments.augmented else None
    images, names = [], []
    for number, sample in enumerate(chosen_samples(dataset, arguments.n, rng), start=1):
        image, regions = from_training(mapper, sample, rng) if mapper else from_files(dataset, sample)
        pieces = dataset.spec.kind == "semantic"
        images.append(draw_ground_truth(image, regions, names=dataset.vocabulary.names, pieces=pieces))
        ending = "_augmented" if mapper else ""
        names.append(f"{number:03d}_{Path(sample['file_name']).stem}{ending}.png")
        with replacing(folder / names[-1]) as path:
            images[-1].save(path)
    with replacing(folder / OVERVIEW) as path:
        contact_sheet(images, names).save(path)
    print(f"{dataset.name}: {len(images)} of {len(dataset.samples):,} images in {folder}, all on {OVERVIEW}")
    return DONE
