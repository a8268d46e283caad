# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Checks all configurations in configs/: each loads, its datasets and weights are known, its network can be built.

Networks are built on the meta device with random encoders, so that nothing is downloaded. Prints the number of trained
parameters of each. Exit codes: 0 no issues; 1 issues, which are listed; 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
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
    parser = argparse.ArgumentParser(
        description="Checks that configuration files load and that their networks can be built."
    )
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="configuration files [all under configs/]"
    )
    files = parser.parse_args(argv).files or shipped_configs()
    checker = Checker()
    issues = 0
    for file in files:
        try:
            print(f"{_relative(file)}: {checker.trained_parameters(file):,} trained parameters")
        except Exception as error:  # continue with the other files
            issues += 1
            prefix = "" if isinstance(error, CMPFError) else f"{type(error).__name__}: "
            print(f"{_relative(file)}: {prefix}{error}", file=sys.stderr)
    print(f"{len(files)} configurations, {issues} with issues")
    return 1 if issues else 0


def shipped_configs() -> list[Path]:
    """All configurations under configs/, sorted by path."""
    return [path for path in sorted(config_root().rglob("*.yaml")) if path.name not in NOT_CONFIGS]


class Checker:
    """Checks configurations; caches networks, because most configurations differ only in test-time keys."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._clip, self._sam = cache(encoders.build_clip), cache(encoders.build_sam)

    def trained_parameters(self, file: Path) -> int:
        """Checks a configuration and returns its number of trained parameters.

        Raises:
            CMPFError: the configuration is wrong.
        """
        cfg = get_cfg(file)
        for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
            get_vocabulary(name)
        _check_clip_weights(cfg)
        key = _network_key(cfg)
        if key not in self._counts:
            self._counts[key] = self._count(get_cfg(file, RANDOM_ENCODERS))
        return self._counts[key]

    def _count(self, cfg: Config) -> int:
        with (
            torch.device("meta"),
            patch.object(encoders, "build_clip", self._clip),
            patch.object(encoders, "build_sam", self._sam),
        ):
            model = build_network(cfg)
        return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _network_key(cfg: Config) -> str:
    """A string that is equal for configurations with the same network."""
    network = cfg.MODEL.model_dump(exclude={"MASK_FORMER": {"TEST"}})
    masks = mask_sam(cfg)[0] if cfg.TEST.ENSEMBLE.ENABLED else ""
    return f"{network} {cfg.DATASETS.TRAIN} {masks}"


def _check_clip_weights(cfg: Config) -> None:
    """Raises CMPFError unless CLIP.PRETRAINED is a file or a tag of OpenCLIP."""
    from open_clip.pretrained import list_pretrained_tags_by_model

    name, tag = cfg.MODEL.CMPF.CLIP.NAME, cfg.MODEL.CMPF.CLIP.PRETRAINED
    if name == CLIP_NAME or not tag or Path(tag).expanduser().is_file():
        return
    tags = list_pretrained_tags_by_model(name.removesuffix("-quickgelu"))
    if tag not in tags:
        raise CMPFError(
            f"MODEL.CMPF.CLIP.PRETRAINED: {tag!r} is none of OpenCLIP's weights for {name}: {', '.join(tags)}"
        )


def _relative(file: Path) -> str:
    """The path relative to the checkout, if it is inside."""
    root = config_root().parent
    return str(file.relative_to(root) if file.is_relative_to(root) else file)


if __name__ == "__main__":
    sys.exit(main())
