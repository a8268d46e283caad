# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Peak memory of training and evaluation: `python -m benchmarks.peak [--device cuda]`.

The full-size model with random weights: a training step at 1024 x 1024 with and without gradient checkpointing, and an
evaluation at 1024 x 2560 with 847 classes, in float32 on a CPU and in mixed precision on a GPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases.system import model_of, noise, training_image
from benchmarks.counting import peak_memory
from benchmarks.report import environment
from benchmarks.setting import Setting
from cmpf.common.files import replacing
from cmpf.data import get_vocabulary
from cmpf.engine.step import MixedPrecision
from cmpf.model import CMPF


@dataclass(frozen=True)
class Peak:
    """Time and memory of one case.

    Attributes:
        seconds: duration of the second call.
        resident: bytes of the model and the optimizer.
        peak: peak bytes during the call, above those.
    """

    seconds: float
    resident: int
    peak: int

    def line(self, name: str) -> str:
        """The case as a line of text, in GiB."""
        resident, beyond, total = (n / 2**30 for n in (self.resident, self.peak, self.resident + self.peak))
        return f"{name:<36} {self.seconds:8.1f} s   {resident:6.2f} + {beyond:6.2f} = {total:6.2f} GiB"


def main(argv: Sequence[str] | None = None) -> int:
    """Measures the cases and prints one line for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peak", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="[cpu]")
    parser.add_argument(
        "--batch", type=int, default=4, help="number of images in the training step [%(default)s]"
    )
    parser.add_argument("--only", choices=list(CASES), nargs="+", default=list(CASES), help="cases [all]")
    parser.add_argument("--quick", action="store_true", help="small sizes, to test that everything runs")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file, in bytes and seconds")
    arguments = parser.parse_args(argv)
    setting = Setting(torch.device(arguments.device), arguments.quick)
    peaks: dict[str, Peak] = {}
    for name in arguments.only:
        peaks[name] = CASES[name](setting, arguments.batch)
        print(peaks[name].line(name), flush=True)
        gc.collect()
    if arguments.json:
        content = {
            "environment": environment(setting.device),
            "batch": arguments.batch,
            "cases": {name: asdict(peak) for name, peak in peaks.items()},
        }
        with replacing(arguments.json) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


def training(setting: Setting, batch: int, *, checkpointing: bool) -> Peak:
    """A step of AdamW on images of the published crop size."""
    model = model_of(setting, "MODEL.CMPF.GRADIENT_CHECKPOINTING", checkpointing).train()
    samples = [training_image(setting, seed) for seed in range(batch)]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)
    precision = MixedPrecision(enabled=True, device=setting.device)

    def step() -> None:
        optimizer.zero_grad()
        with precision.autocast():
            losses = model.losses(samples)
        precision.backward(torch.stack([loss.float() for loss in losses.values()]).sum())
        precision.step(optimizer)
        optimizer.zero_grad()

    # Parameters and the optimizer's two moments, which the first step allocates.
    resident = _bytes(model) + 2 * sum(p.nbytes for p in parameters)
    return _measure(step, setting.device, resident)


def evaluation(setting: Setting, _batch: int) -> Peak:
    """All three tasks on one image of 1024 x 2560 pixels with 847 classes."""
    model = model_of(setting).eval()
    size = setting.pick((1024, 2560), (128, 320))
    words = get_vocabulary(setting.pick("openvocab_ade20k_full_sem_seg_val", "shapes_val"))
    image = noise(setting, size)
    model.class_embeddings(words)

    def infer() -> None:
        with torch.inference_mode():
            model.infer([{"image": image, "height": size[0], "width": size[1]}], words)

    return _measure(infer, setting.device, _bytes(model))


def _measure(run: Callable[[], Any], device: torch.device, resident: int) -> Peak:
    run()  # warm-up, which also fills caches
    started = time.perf_counter()
    peak = peak_memory(run, device)
    return Peak(seconds=time.perf_counter() - started, resident=resident, peak=peak)


def _bytes(model: CMPF) -> int:
    return sum(tensor.nbytes for tensor in model.state_dict().values())


CASES: dict[str, Callable[[Setting, int], Peak]] = {
    "training": lambda setting, batch: training(setting, batch, checkpointing=False),
    "training_with_checkpointing": lambda setting, batch: training(setting, batch, checkpointing=True),
    "evaluation": evaluation,
}

if __name__ == "__main__":
    raise SystemExit(main())
