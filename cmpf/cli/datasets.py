# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf datasets: lists, describes, checks, draws and prepares datasets, and downloads published vocabularies."""

from __future__ import annotations

import argparse
from pathlib import Path

from cmpf.cli import prepare
from cmpf.cli.command import DONE, FAILED, Commands, add_command, add_debug, add_plugin, positive
from cmpf.registry import import_plugins

EXAMPLES = """examples:
  cmpf datasets                                     list the built-in datasets
  cmpf datasets openvocab_ade20k_panoptic_val       describe one: paths, sizes, classes
  cmpf datasets fruit_val.yaml --classes            describe your own, with its class names
  cmpf datasets check fruit_val.yaml                open every file and list issues; exit code 1 if any
  cmpf datasets prepare                             list the datasets that can be prepared
  cmpf datasets prepare ade20k_panoptic --check     verify prepared files; without --check, prepare them
  cmpf datasets vocabularies --fetch                download the vocabularies of the papers
  cmpf datasets show fruit_val.yaml --n 8 --output images/        draw ground truth
  cmpf datasets show fruit_train.yaml --augmented --config-file configs/shapes/cmpf_tiny.yaml
"""
COCO = "openvocab_coco_2017_train_panoptic_with_sem_seg"
CHECK, SHOW, PREPARE, VOCABULARIES = "check", "show", "prepare", "vocabularies"
# Action -> its own options; "" = list and describe.
OPTIONS = {
    "": ("classes", "against", "seen"),
    CHECK: ("all", "jobs"),
    SHOW: ("n", "seed", "output", "augmented", "config_file"),
    PREPARE: (
        *("all", "jobs", "root", "split", "overwrite", "force", "check", "images"),
        *prepare.OWN_OPTIONS,
    ),
    VOCABULARIES: ("fetch",),
}
PUBLISHED = "published"
YAML_SUFFIXES = (".yaml", ".yml")
OVERVIEW = "overview.png"


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "datasets",
        help="list, check, show and prepare datasets",
        description="Lists datasets, describes one, checks its files, draws its ground truth, or prepares it.",
        usage="cmpf datasets [check | show | prepare | vocabularies] [NAME | FILE.yaml] [options]",
        examples=EXAMPLES,
    )
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--classes", action="store_true", help="list the class names")
    parser.add_argument(
        "--against", default=COCO, metavar="NAME", help=f"training dataset, whose classes are seen [{COCO}]"
    )
    parser.add_argument(
        "--seen",
        choices=(PUBLISHED, "words"),
        default=PUBLISHED,
        help="how seen classes are determined: as in the papers where known, or by equal words [%(default)s]",
    )
    parser.add_argument("--json", action="store_true", help="print JSON (list, description and issues)")
    checking = parser.add_argument_group("check and prepare")
    checking.add_argument("--all", action="store_true", help=prepare.ALL_HELP)
    checking.add_argument("--jobs", type=positive, metavar="N", help=prepare.JOBS_HELP)
    showing = parser.add_argument_group("show")
    showing.add_argument("--n", type=positive, default=8, help="number of images, chosen at random [8]")
    showing.add_argument("--seed", type=int, default=0, help="random seed of images and augmentations [0]")
    showing.add_argument("--output", metavar="DIR", help="output folder [output/datasets/NAME]")
    showing.add_argument(
        "--augmented", action="store_true", help="draw augmented images, as used in training"
    )
    showing.add_argument(
        "--config-file",
        metavar="FILE",
        help="configuration of the augmentations: YAML file, or its name under configs/ [the defaults]",
    )
    prepare.add_options(parser.add_argument_group("prepare"))
    parser.add_argument_group("vocabularies").add_argument(
        "--fetch", action="store_true", help="download missing files; each is verified by its SHA-256"
    )
    add_plugin(parser)
    add_debug(parser)
    parser.set_defaults(run=run, usage_error=parser.error, default_of=parser.get_default)


def run(arguments: argparse.Namespace) -> int:
    """Runs the action given by the positional arguments."""
    import_plugins(arguments.plugin)
    words = list(arguments.words)
    action = words.pop(0) if words and words[0] in (CHECK, SHOW, PREPARE, VOCABULARIES) else ""
    if len(words) > 1 or (action in (CHECK, SHOW) and not words):
        arguments.usage_error(f"expected {action or 'at most'} one dataset, got {' '.join(words) or 'none'}")
    _check_options(arguments, action)
    if action == VOCABULARIES:
        return _vocabularies(arguments, words)
    if action == PREPARE:
        return _prepare(words[0] if words else None, arguments)
    if not words:
        return _list(as_json=arguments.json)
    name = dataset_name(words[0])
    if action == CHECK:
        return _check(name, arguments)
    return _show(name, arguments) if action == SHOW else _describe(name, arguments)


def _check_options(arguments: argparse.Namespace, action: str) -> None:
    """Exits with a usage error if an option of other actions is given."""
    for name in dict.fromkeys(name for names in OPTIONS.values() for name in names):
        if name not in OPTIONS[action] and getattr(arguments, name) != arguments.default_of(name):
            owners = [f"cmpf datasets {owner}".strip() for owner, names in OPTIONS.items() if name in names]
            option = name.replace("_", "-")
            arguments.usage_error(f"--{option}: only an option of {' and '.join(owners)}")


def dataset_name(given: str) -> str:
    """The catalog name of a dataset, given by name or as the path of a YAML file.

    The path becomes absolute, because the name is saved in config.yaml, which may be read from another folder.
    """
    from cmpf.data.datasets.catalog import FILE_PREFIX

    path = given.removeprefix(FILE_PREFIX)
    if given.startswith(FILE_PREFIX) or given.lower().endswith(YAML_SUFFIXES):
        return f"{FILE_PREFIX}{Path(path).expanduser().absolute()}"
    return given


def _list(*, as_json: bool) -> int:
    from cmpf.cli.dataset_report import table

    print(table(as_json=as_json))
    return DONE


def _vocabularies(arguments: argparse.Namespace, words: list[str]) -> int:
    from cmpf.cli.dataset_report import vocabulary_table
    from cmpf.weights.vocabularies import fetch_vocabularies

    if words:
        arguments.usage_error(
            f"vocabularies takes no dataset, got {words[0]}; all files are fetched together"
        )
    if arguments.fetch:
        fetch_vocabularies()
    print(vocabulary_table(as_json=arguments.json))
    return DONE


def _describe(name: str, arguments: argparse.Namespace) -> int:
    from cmpf.cli.dataset_report import description, description_json
    from cmpf.data.datasets.catalog import get_spec, summarize
    from cmpf.data.datasets.published import published_seen

    training = get_spec(dataset_name(arguments.against))
    seen = published_seen(get_spec(name), training) if arguments.seen == PUBLISHED else None
    summary = summarize(name, training.vocabulary(), published_seen=seen)
    if arguments.json:
        print(description_json(summary))
    else:
        print(description(summary, against=arguments.against, classes=arguments.classes))
    return DONE


def _check(name: str, arguments: argparse.Namespace) -> int:
    from cmpf.common.processes import default_jobs
    from cmpf.data.datasets.issues import issues_json, issues_text
    from cmpf.data.datasets.validate import report_of

    report = report_of(name, jobs=arguments.jobs or default_jobs(), progress=True)
    if arguments.json:
        print(issues_json(report.issues))
    else:
        print(issues_text(report.name, report.issues, notes=report.notes, everything=arguments.all))
    return FAILED if report.issues else DONE


def _prepare(name: str | None, arguments: argparse.Namespace) -> int:
    from cmpf.data.preparation import get_preparation

    if name is None:
        print(prepare.table())
        return DONE
    preparation = get_preparation(name)
    if arguments.split not in ("all", *preparation.images):
        arguments.usage_error(f"--split {arguments.split}: {name} has {', '.join(preparation.images)}")
    for option, (owner, _) in prepare.OWN_OPTIONS.items():
        if getattr(arguments, option) and name != owner:
            arguments.usage_error(f"--{option.replace('_', '-')}: only an option of {owner}, not of {name}")
    return prepare.run(name, arguments)


def _show(name: str, arguments: argparse.Namespace) -> int:
    import numpy as np

    from cmpf.cli.dataset_report import from_files, from_training, random_samples
    from cmpf.common.files import file_prefix
    from cmpf.config import get_cfg
    from cmpf.data.datasets.catalog import get_dataset
    from cmpf.factory.training import build_train_mapper
    from cmpf.formats.image import write_image
    from cmpf.visualization.ground_truth import contact_sheet, draw_ground_truth

    dataset = get_dataset(name)
    folder = Path(arguments.output or Path("output", "datasets", dataset.name))
    rng = np.random.default_rng(arguments.seed)
    mapper = build_train_mapper(get_cfg(arguments.config_file), dataset) if arguments.augmented else None
    images, names = [], []
    semantic = dataset.spec.kind == "semantic"
    suffix = "_augmented" if mapper else ""
    for number, sample in enumerate(random_samples(dataset, arguments.n, rng), start=1):
        image, regions = from_training(mapper, sample, rng) if mapper else from_files(dataset, sample)
        images.append(
            draw_ground_truth(image, regions, names=dataset.vocabulary.names, per_component=semantic)
        )
        prefix = file_prefix(f"{number:03d}_{Path(sample['file_name']).stem}{suffix}")
        names.append(f"{prefix}.png")
        write_image(folder / names[-1], images[-1])
    write_image(folder / OVERVIEW, contact_sheet(images, names))
    print(
        f"{dataset.name}: {len(images)} of {len(dataset.samples):,} images in {folder}, with an overview in {OVERVIEW}"
    )
    return DONE
