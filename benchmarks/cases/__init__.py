# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""All benchmark cases by name, in the order of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from benchmarks.cases import network, postprocess, system, training
from benchmarks.harness import Pair
from benchmarks.setting import Setting

CLASS_COUNTS = (19, 150, 847, 1203)
SIZES = ((800, 1333), (1024, 2560))

Build = Callable[[Setting], Pair]


def _cases() -> Mapping[str, Build]:
    cases: dict[str, Build] = {
        "text": network.text,
        "sam_encoder": network.sam_encoder,
        "clip_trunk": network.clip_trunk,
        "deformable_forward": network.deformable_forward,
        "deformable_backward": network.deformable_backward,
    }
    for classes in CLASS_COUNTS:
        cases[f"heads_{classes}"] = partial(network.heads, classes=classes)
    cases["losses"] = training.losses
    for classes in (150, 847):
        for size in SIZES:
            name = f"semantic_{classes}_{size[0]}x{size[1]}"
            cases[name] = partial(postprocess.semantic, classes=classes, size=size)
    for size in SIZES:
        cases[f"panoptic_{size[0]}x{size[1]}"] = partial(postprocess.panoptic, size=size)
        cases[f"instance_{size[0]}x{size[1]}"] = partial(postprocess.instance, size=size)
    cases["model_inference"] = system.inference
    cases["model_training"] = system.training
    cases["loader"] = training.training_samples
    return cases


CASES = _cases()
