# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf doctor: reports what is installed and what is missing, and runs a self-test. Downloads nothing.

Each check imports what it examines itself, so that the command also works with a damaged installation.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from cmpf.cli import command
from cmpf.errors import summary

EXAMPLES = """examples:
  cmpf doctor
  cmpf doctor --json > doctor.json

The exit code is 1 if the self-test fails or a required package is missing or too old.
"""
OK, MISSING, FAILED = "ok", "missing", "failed"
VERSIONS, DEVICES, PARTS, WEIGHTS, DATASETS, SELF_TEST = GROUPS = (
    "versions", "devices", "optional parts", "weights", "datasets", "self-test",
)  # fmt: skip
# Required package -> minimum version (install_requires of setup.py).
CORE = {
    "torch": "2.7", "torchvision": "0.22", "open_clip_torch": "3", "timm": "1.0.16", "segment-anything": "1.0",
    "pydantic": "2.10", "PyYAML": "6", "numpy": "1.26", "scipy": "1.11", "pillow": "10.1",
    "pycocotools": "2.0.7", "faster-coco-eval": "1.8", "safetensors": "0.4.3", "huggingface_hub": "0.23",
    "filelock": "3.12", "tqdm": "4.66", "tensorboard": "2.16",
}  # fmt: skip
IMAGE_SIZE, IMAGE_SEED = 256, 0  # image of the self-test
# CLIP models of the full-size configurations.
USED_CLIPS = (("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup"), ("RN50x64", "openai"))


@dataclass(frozen=True)
class Check:
    """The result of one check.

    group: one of GROUPS. state: OK, MISSING (CMPF works without it) or FAILED (something required does not work).
    detail: what was found. fix: a command or advice, "" = none.
    """

    group: str
    name: str
    state: str
    detail: str
    fix: str = ""


@dataclass(frozen=True)
class OptionalPart:
    """An optional dependency: its extra in setup.py ("" = none), its purpose, and package -> module."""

    extra: str
    purpose: str
    modules: dict[str, str]

    @property
    def fix(self) -> str:
        """The command that installs it."""
        return f'pip install "cmpf[{self.extra}]"' if self.extra else DETECTRON2


DETECTRON2 = "pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2@02b5c4e295e990042a714712c21dc79b731e8833"
OPTIONAL = (
    OptionalPart("web", "cmpf serve", {"gradio": "gradio", "scikit-image": "skimage", "pooch": "pooch"}),
    OptionalPart("video", "videos and webcam of cmpf predict", {"av": "av"}),
    OptionalPart("label", "cmpf label, Parquet files", {"pyarrow": "pyarrow", "fsspec": "fsspec"}),
    OptionalPart("ray", "cmpf label --ray", {"ray": "ray"}),
    OptionalPart(
        "export", "cmpf export --format onnx", {p: p for p in ("onnx", "onnxscript", "onnxruntime")}
    ),
    OptionalPart(
        "cityscapes", "official evaluation of Cityscapes", {"cityscapesscripts": "cityscapesscripts"}
    ),
    OptionalPart("wandb", "LOG.WANDB_PROJECT", {"wandb": "wandb"}),
    OptionalPart("supervision", "Prediction.to_supervision", {"supervision": "supervision"}),
    OptionalPart("completion", "cmpf --completion", {"shtab": "shtab"}),
    OptionalPart("", "--engine detectron2", {"detectron2": "detectron2"}),
)


def add_parser(commands: command.Commands) -> None:
    """Adds the command."""
    parser = command.add_command(
        commands,
        "doctor",
        help="check the installation and run a self-test",
        description="Lists versions, devices, optional packages with the commands that install them, weights and\n"
        "datasets, and segments an image with the tiny model. Downloads nothing.",
        examples=EXAMPLES,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    command.add_debug(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the report; returns 1 if a check failed."""
    checks = report()
    failed = [f"{check.name} ({check.group})" for check in checks if check.state == FAILED]
    if arguments.json:
        print(json.dumps({"ok": not failed, "checks": [asdict(check) for check in checks]}, indent=1))
    else:
        passed = "All checks passed. Missing items are optional."
        verdict = f"Failed: {', '.join(failed)}" if failed else passed
        print(f"{text(checks)}\n\n{verdict}")
    return command.FAILED if failed else command.DONE


def text(checks: Sequence[Check]) -> str:
    """The report as text: a paragraph per group, a line per check, followed by its fix."""
    blocks = []
    for group in GROUPS:
        members = [check for check in checks if check.group == group]
        members = _merge_absent_datasets(members) if group == DATASETS else members
        width = max((len(check.name) for check in members), default=0)
        lines = [group]
        for check in members:
            lines.append(f"  {check.state:<7}  {check.name:<{width}}  {check.detail}")
            lines += [f"           -> {check.fix}"] if check.fix else []
        blocks += ["\n".join(lines)] if members else []
    return "\n\n".join(blocks)


def _merge_absent_datasets(checks: Sequence[Check]) -> list[Check]:
    """Replaces the datasets without any file by one line: most users have only a few of them."""
    present = [check for check in checks if check.state != MISSING or not check.detail.startswith("0 of ")]
    if absent := len(checks) - len(present):
        how = "cmpf datasets lists all, cmpf datasets NAME shows how to get one"
        present.append(Check(DATASETS, "others", MISSING, f"{absent} more datasets; {how}"))
    return present


def report() -> list[Check]:
    """All checks in the order of GROUPS. Takes some seconds, because the self-test builds a model."""
    functions = (versions, devices, optional_parts, weights, datasets, self_test)
    return [c for group, function in zip(GROUPS, functions, strict=True) for c in _guarded(group, function)]


def versions() -> Iterator[Check]:
    """CMPF, Python and the required packages."""
    from cmpf import __version__

    yield Check(VERSIONS, "cmpf", OK, f"{__version__} in {Path(__file__).parents[1]}")
    yield Check(VERSIONS, "python", OK, f"{platform.python_version()} ({sys.executable})")
    for package, oldest in CORE.items():
        installed, fix = _version(package), f'pip install "{package}>={oldest}"'
        if not installed:
            yield Check(VERSIONS, package, FAILED, "not installed", fix)
        elif _version_numbers(installed) < _version_numbers(oldest):
            yield Check(VERSIONS, package, FAILED, f"{installed}, but {oldest} or newer is needed", fix)
        else:
            yield Check(VERSIONS, package, OK, installed)


def devices() -> Iterator[Check]:
    """The CPU, the CUDA devices, and their implementation of deformable attention."""
    import torch

    from cmpf.common.cpu import usable_cores
    from cmpf.modeling.deformable.triton import triton_issue

    cores = f"{usable_cores()} of {os.cpu_count()} cores, threads in use: {torch.get_num_threads()}"
    yield Check(DEVICES, "cpu", OK, cores)
    if not torch.cuda.is_available():
        target = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs"
        reason = f"PyTorch is built for {target}"
        yield Check(DEVICES, "cuda", MISSING, f"no device ({reason}); models run on the CPU")
        return
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        memory = f"{device.total_memory / 2**30:.0f} GiB, compute capability {device.major}.{device.minor}"
        yield Check(DEVICES, f"cuda:{index}", OK, f"{device.name}, {memory}, CUDA {torch.version.cuda}")
        issue = triton_issue(torch.device("cuda", index))
        implementation = f"PyTorch's operators ({issue})" if issue else "Triton kernels"
        yield Check(DEVICES, "deformable attention", MISSING if issue else OK, implementation)


def optional_parts() -> Iterator[Check]:
    """Optional dependencies, and the command that installs each."""
    for part in OPTIONAL:
        name = part.extra or next(iter(part.modules))
        missing = [package for package, module in part.modules.items() if not _importable(module)]
        if missing:
            yield Check(PARTS, name, MISSING, f"{', '.join(missing)} ({part.purpose})", part.fix)
        else:
            installed = ", ".join(f"{package} {_version(package)}".strip() for package in part.modules)
            yield Check(PARTS, name, OK, f"{installed} ({part.purpose})")


def weights() -> Iterator[Check]:
    """Weights of the full-size encoders in the caches, and those that the configurations would download."""
    from cmpf.encoders.clip_factory import cached_file, clip_tags, saved_file, source_of, tag_record
    from cmpf.encoders.sam import PUBLISHED, published_path
    from cmpf.weights.download import cache_folder, partial_path

    yield Check(WEIGHTS, "folder", OK, str(cache_folder()))
    for name, tag in clip_tags():
        if path := cached_file(name, tag):
            yield Check(WEIGHTS, f"CLIP {name} {tag}", OK, _size(path))
        elif (name, tag) in USED_CLIPS:
            fix = _download_or(source_of(tag_record(name, tag)), saved_file(name, tag))
            yield Check(WEIGHTS, f"CLIP {name} {tag}", MISSING, "not in the caches", fix)
    for name, url in PUBLISHED.items():
        path, part = published_path(name), partial_path(published_path(name))
        if path.is_file():
            yield Check(WEIGHTS, f"SAM {name}", OK, _size(path))
        else:
            state = f"download unfinished: {_size(part)}" if part.is_file() else "not in the cache"
            yield Check(WEIGHTS, f"SAM {name}", MISSING, state, _download_or(url, path))


def datasets() -> Iterator[Check]:
    """The dataset folder, and which of the built-in datasets exist."""
    from cmpf.data.datasets.catalog import dataset_names, dataset_root, locate_dataset
    from cmpf.data.datasets.spec import ROOT_VARIABLE

    root = dataset_root()
    note = "" if os.environ.get(ROOT_VARIABLE) else f" ({ROOT_VARIABLE} is not set)"
    fix = f"export {ROOT_VARIABLE}=/path/to/datasets"
    if root.is_dir():
        yield Check(DATASETS, ROOT_VARIABLE, OK, f"{root.absolute()}{note}")
    else:
        yield Check(DATASETS, ROOT_VARIABLE, MISSING, f"{root.absolute()}: no such folder{note}", fix)
    for name in dataset_names():
        dataset = locate_dataset(name)
        exists = [path.exists() for path in dataset.paths]
        if all(exists):
            yield Check(DATASETS, name, OK, str(dataset.folder.absolute()))
        else:
            detail = f"{sum(exists)} of {len(exists)} paths in {dataset.folder.absolute()}"
            yield Check(DATASETS, name, MISSING, detail, dataset.spec.command_in(dataset.folder))


def self_test() -> Iterator[Check]:
    """Segments a generated image with the tiny model on the default device."""
    import cmpf
    from cmpf.shapeworld.categories import CATEGORIES
    from cmpf.shapeworld.scene import generate_scene

    scene = generate_scene(IMAGE_SEED, size=IMAGE_SIZE, seen_only=True)
    names = list(dict.fromkeys(CATEGORIES[segment.category_id].name for segment in scene.segments))
    start = time.perf_counter()
    predictor = cmpf.load(command.TINY)
    loaded = time.perf_counter()
    segments = predictor.predict(scene.image, names).segments
    took = f"{time.perf_counter() - loaded:.2f} s (model loaded in {loaded - start:.2f} s)"
    image = f"a {IMAGE_SIZE} x {IMAGE_SIZE} image on {next(predictor.model.parameters()).device}"
    detail = f"found {len(segments)} of {len(scene.segments)} segments in {image} in {took}"
    yield Check(SELF_TEST, command.TINY, OK if segments else FAILED, detail)


def _guarded(group: str, function: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """The checks of a group; an exception becomes a failed check, and the report continues."""
    try:
        yield from function()
    except Exception as error:  # a damaged installation may raise anything
        yield Check(group, "error", FAILED, summary(error))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _version_numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: "2.15.0+cpu" -> (2, 15, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[^\d.]", text, maxsplit=1)[0]))


def _importable(module: str) -> bool:
    """Whether a module is installed; a namespace package, such as a checkout in the working directory, is not."""
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def _download_or(url: str, path: Path) -> str:
    return f"downloaded when needed; without network save {url} as {path}"


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:,.1f} MB in {path}"
