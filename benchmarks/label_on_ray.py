# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf label --ray on this machine: images a second by workers, and the memory of the process that writes.

python -m benchmarks.label_on_ray --images 500 5000 --workers 1 2

Each combination runs in a process of its own, on a Ray of its own with all cores. The images are generated, 64 x 48
pixels, and seen by cmpf_tiny at --side pixels. Seconds are from the first record to the last, so without the start of
Ray and of the workers.
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
    """Prints a row a combination."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--side", type=int, default=64)
    arguments = parser.parse_args()
    if len(arguments.images) == len(arguments.workers) == 1:
        measure(arguments.images[0], arguments.workers[0], arguments.side)
        return
    print(
        "| images | workers | seconds | images a second | peak memory of this process, MB |\n|---|---|---|---|---|",
        flush=True,
    )
    for images in arguments.images:
        for workers in arguments.workers:
            words = ("--images", str(images), "--workers", str(workers), "--side", str(arguments.side))
            subprocess.run([sys.executable, "-m", "benchmarks.label_on_ray", *words], check=True)


def measure(images: int, workers: int, side: int) -> None:
    """One row."""
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
    """Noise of low frequency, which is quick to make and different in each image."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        coarse.resize((64, 48), Image.Resampling.BICUBIC).save(folder / f"{number:06}.jpg")
    return folder


def peak_megabytes() -> float:
    """The most resident memory that this process has had."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
