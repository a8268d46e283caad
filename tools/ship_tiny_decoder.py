# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Copies the decoder of a finished tiny training to cmpf/assets, from where `cmpf.load("cmpf_tiny")` loads it.

python tools/train_net.py --config-file configs/shapes/cmpf_tiny.yaml OUTPUT_DIR output/ship
python tools/ship_tiny_decoder.py output/ship/model_final.safetensors
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cmpf.config import find_config, get_cfg
from cmpf.errors import CMPFError
from cmpf.factory import build_model
from cmpf.weights import save as save_weights
from cmpf.weights.download import ASSETS
from cmpf.weights.zoo_entries import zoo
from tiny_encoders.training import record_hash

NAME = "cmpf_tiny"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path, help="model_final.safetensors of a training of cmpf_tiny.yaml")
    parser.add_argument("--out", type=Path, default=ASSETS, help="output folder [cmpf/assets]")
    arguments = parser.parse_args(argv)
    try:
        ship(arguments.weights, arguments.out)
    except CMPFError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def ship(weights: Path, folder: Path) -> None:
    """Writes the weights, without the paths of the training run, and their SHA-256.

    Args:
        weights: model_final.safetensors of the training.
        folder: the assets folder.
    Raises:
        WeightsError: the file is damaged or was trained with other encoders.
    """
    entry = zoo()[NAME]
    model = build_model(
        get_cfg(find_config(entry.config), ["MODEL.WEIGHTS", str(weights), "MODEL.DEVICE", "cpu"])
    )
    classes = [list(synonyms) for synonyms in model.train_vocabulary.classes]
    save_weights(model, folder / entry.asset, metadata={"train_classes": classes})
    record_hash(folder, entry.asset)


if __name__ == "__main__":
    sys.exit(main())
