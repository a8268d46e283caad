# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Whether an exported file computes what the model computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cmpf.errors import CMPFError
from cmpf.export.formats import Runner
from cmpf.export.network import OUTPUTS, ExportNetwork
from cmpf.export.tracing import SMALLEST, STRIDE, example_inputs
from cmpf.inference.settings import Request
from cmpf.model import CMPF
from cmpf.types import ClassEmbeddings

# Of the mean difference to the spread of values. It is the mean that counts: where a mask's logit is nearly 0, rounding
# decides on which side it falls, and with it what one query attends to; the largest difference may then be visible.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Agreement:
    """File and model on one input. size: (H, W) with padding; classes, synonyms: K, T; largest, mean: differences by
    output; spread: of the model's values."""

    size: tuple[int, int]
    classes: int
    synonyms: int
    largest: dict[str, float]
    mean: dict[str, float]
    spread: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether every output agrees; False for what is not a number."""
        return all(self.mean[name] <= TOLERANCE * self.spread[name] for name in OUTPUTS)

    def __str__(self) -> str:
        parts = [
            f"{name}: largest difference {self.largest[name]:.1e}, "
            f"{self.largest[name] / max(self.spread[name], 1e-30):.1e} of the spread"
            for name in OUTPUTS
        ]
        height, width = self.size
        return f"{height} x {width}, {self.classes} classes, {self.synonyms} synonyms: {'; '.join(parts)}"


def check_runner(
    runner: Runner, network: ExportNetwork, model: CMPF, *, size: tuple[int, int], dynamic: bool
) -> list[Agreement]:
    """File against model on two images with two vocabularies, and with `dynamic` two sizes.

    Raises:
        CMPFError: they disagree.
    """
    other = _other_size(size) if dynamic else size
    found: list[Agreement] = []
    for shape, synonyms, classes, padding in ((size, 7, 5, (0, 0)), (other, 20, 20, (13, 27))):
        inputs = example_inputs(
            network, shape, synonyms=synonyms, classes=classes, padding=padding, seed=len(found) + 1
        )
        found.append(_compare(runner(inputs), model_outputs(model, inputs), shape, classes, synonyms))
    wrong = [agreement for agreement in found if not agreement.holds]
    if wrong:
        raise CMPFError(
            "the exported program does not compute what the model computes, so no file was written. "
            f"{wrong[0]}. Report it with the versions that cmpf doctor prints"
        )
    return found


@torch.no_grad()
def model_outputs(model: CMPF, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What the model itself, by its usual way, makes of the inputs of ExportNetwork."""
    height, width = (int(side) for side in inputs["size"])
    classes = ClassEmbeddings(
        matrix=inputs["text"], class_of_row=inputs["class_of_row"], num_classes=len(inputs["seen"])
    )
    features, _, _ = model.encoders(
        [{"image": inputs["image"][0, :, :height, :width]}], with_sam=model.uses_sam
    )
    outputs = model.decode(features, classes)
    request = Request(classes=classes, is_thing=inputs["seen"], seen=inputs["seen"], settings=model.settings)
    return model.classify(outputs, features, request)[0], outputs["pred_masks"][0]


def _compare(
    got: Sequence[Tensor], wanted: Sequence[Tensor], size: tuple[int, int], classes: int, synonyms: int
) -> Agreement:
    differences = [(a.cpu() - b.cpu()).abs() for a, b in zip(got, wanted, strict=True)]
    return Agreement(
        size=size,
        classes=classes,
        synonyms=synonyms,
        largest={name: float(d.max()) for name, d in zip(OUTPUTS, differences, strict=True)},
        mean={name: float(d.mean()) for name, d in zip(OUTPUTS, differences, strict=True)},
        spread={name: float(b.max() - b.min()) for name, b in zip(OUTPUTS, wanted, strict=True)},
    )


def _other_size(size: tuple[int, int]) -> tuple[int, int]:
    """Another size of another shape, with height and width that differ from those of `size`."""
    return size[0] + STRIDE, max(SMALLEST, size[1] // 2 // STRIDE * STRIDE + STRIDE)
