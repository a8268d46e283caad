# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Checks every shipped configuration: it loads, its datasets and weights are known, and its network can be built.

Networks are built without memory (torch's meta device) and with random encoders, so that nothing is downloaded.
One line per file with the number of trained parameters. Exit codes: 0 all well; 1 with all issues; 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from cmpf.config import Config, config_root, get_cfg
from cmpf.data import get_vocabulary
from cmpf.encoders.tiny import CLIP_NAME
from cmpf.errors import CMPFError
from cmpf.factory import encoders
from cmpf.factory.encoders import mask_sam
from cmpf.factory.model import build_network

NOT_CONFIGS = ("model_zoo.yaml",)
RANDOM_ENCODERS = (
    *("MODEL.CMPF.CLIP.PRETRAINED", ""),
    *("MODEL.CMPF.SAM.CHECKPOINT", "random"),
    *("TEST.ENSEMBLE.SAM_CHECKPOINT", "random"),
    *("TEST.ENSEMBLE.SOURCE", "online"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    parser = argparse.ArgumentParser(description="Checks configuration files.")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="[all under configs/]")
    files = parser.parse_args(argv).files or shipped_configs()
    checker = Checker()
    issues = 0
    for file in files:
        try:
            print(f"{_shown(file)}: {checker.trained_parameters(file):,} trained parameters")
        except Exception as error:  # one bad file does not hide the others
            issues += 1
            kind = "" if isinstance(error, CMPFError) else f"{type(error).__name__}: "
            print(f"{_shown(file)}: {kind}{error}", file=sys.stderr)
    print(f"{len(files)} configurations, {issues} with issues")
    return 1 if issues else 0


def shipped_configs() -> list[Path]:
    """Every YAML file under configs/ that is a configuration, by path."""
    return [path for path in sorted(config_root().rglob("*.yaml")) if path.name not in NOT_CONFIGS]


class Checker:
    """Remembers networks, because most configurations differ in how they are tested only."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._clip, self._sam = cache(encoders.build_clip), cache(encoders.build_sam)

    def trained_parameters(self, file: Path) -> int:
        """Number of trained parameters of a configuration.

        Raises:
            CMPFError: what is wrong with it.
        """
        cfg = get_cfg(file)
        for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
            get_vocabulary(name)
        _check_tag(cfg)
        network = _network_of(cfg)
        if network not in self._counts:
            self._counts[network] = self._count(get_cfg(file, RANDOM_ENCODERS))
        return self._counts[network]

    def _count(self, cfg: Config) -> int:
        with (
            without_memory(),
            patch.object(encoders, "build_clip", self._clip),
            patch.object(encoders, "build_sam", self._sam),
        ):
            model = build_network(cfg)
        return sum(p.numel() for p in model.parameters() if p.requires_grad)


@contextmanager
def without_memory() -> Iterator[None]:
    """New tensors have shapes but no storage. Autocast does not know such a device, and nothing is computed."""

    def no_autocast(*_: Any, **__: Any) -> nullcontext[None]:
        return nullcontext()

    with torch.device("meta"), patch.object(torch, "autocast", no_autocast):
        yield


def _network_of(cfg: Config) -> str:
    """All that the number of trained parameters may depend on, as text."""
    network = cfg.MODEL.model_dump(exclude={"MASK_FORMER": {"TEST"}})
    masks = mask_sam(cfg)[0] if cfg.TEST.ENSEMBLE.ENABLED else ""
    return f"{network} {cfg.DATASETS.TRAIN} {masks}"


def _check_tag(cfg: Config) -> None:
    """Raises CMPFError unless OpenCLIP publishes the weights that the configuration names, or they are a file."""
    from open_clip.pretrained import list_pretrained_tags_by_model

    name, tag = cfg.MODEL.CMPF.CLIP.NAME, cfg.MODEL.CMPF.CLIP.PRETRAINED
    if name == CLIP_NAME or not tag or Path(tag).expanduser().is_file():
        return
    tags = list_pretrained_tags_by_model(name.removesuffix("-quickgelu"))
    if tag not in tags:
        raise CMPFError(
            f"MODEL.CMPF.CLIP.PRETRAINED: {tag!r} is none of OpenCLIP's weights for {name}: {', '.join(tags)}"
        )


def _shown(file: Path) -> str:
    root = config_root().parent
    return str(file.relative_to(root) if file.is_relative_to(root) else file)


if __name__ == "__main__":
    sys.exit(main())
