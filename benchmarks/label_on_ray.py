# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Throughput of cmpf label --ray on this machine by number of workers, and memory of the process that writes.

python -m benchmarks.label_on_ray --images 500 5000 --workers 1 2

Each combination runs in a separate process, with its own Ray cluster that uses all cores. Images of 64 x 48 pixels are
generated; cmpf_tiny processes them at --side pixels. Seconds are measured from the first to the last record, without
the start of Ray and its workers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from cmpf.integrations.ray import label_on_ray
from cmpf.labelling.inputs import divide
from cmpf.labelling.shards import LabelFolder

SHARD_IMAGES = 100


def main() -> None:
    """Prints a table with one row per combination."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.label_on_ray",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--images", type=int, nargs="+", default=[500, 5000], help="numbers of images [500 5000]"
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers [1 2]")
    parser.add_argument(
        "--side", type=int, default=64, help="shorter side of the model input, in pixels [64]"
    )
    arguments = parser.parse_args()
    if len(arguments.images) == len(arguments.workers) == 1:
        measure(arguments.images[0], arguments.workers[0], arguments.side)
        return
    print(
        "| images | workers | seconds | images per second | peak memory of this process, MB |\n|---|---|---|---|---|",
        flush=True,
    )
    for images in arguments.images:
        for workers in arguments.workers:
            words = ("--images", str(images), "--workers", str(workers), "--side", str(arguments.side))
            subprocess.run([sys.executable, "-m", "benchmarks.label_on_ray", *words], check=True)


def measure(images: int, workers: int, side: int) -> None:
    """Measures and prints one row."""
    sizes = ["INPUT.MIN_SIZE_TEST", side, "INPUT.MAX_SIZE_TEST", 2 * side, "TEST.ENSEMBLE.ENABLED", False]
    options = {"model": "cmpf_tiny", "vocabulary": "red circle; sky", "device": "cpu", "overrides": sizes}
    times: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = write_images(folder / "photos", images)
        count = max(1, images // SHARD_IMAGES)
        label_on_ray(
            divide([str(photos)], count=count),
            LabelFolder(folder / "out", {}, count=count),
            options,
            workers=workers,
            tell=lambda record: times.append(time.perf_counter()),
        )
    seconds = times[-1] - times[0]
    print(
        f"| {images} | {workers} | {seconds:.1f} | {images / seconds:.1f} | {peak_megabytes():.0f} |",
        flush=True,
    )


def write_images(folder: Path, count: int) -> Path:
    """Writes images of low-frequency noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        coarse.resize((64, 48), Image.Resampling.BICUBIC).save(folder / f"{number:06}.jpg")
    return folder


def peak_megabytes() -> float:
    """Peak resident memory of this process."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
