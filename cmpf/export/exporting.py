# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Exports a model and compares the exported program with it before the file is kept."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cmpf.common.files import TEMPORARY
from cmpf.common.tensors import EvaluationMode
from cmpf.errors import CMPFError
from cmpf.export.network import OUTPUTS, SMALLEST, STRIDE, ExportNetwork, check_size, example_inputs, trace
from cmpf.export.programs import Runner, check_format, describe, open_program, write_program
from cmpf.inference.settings import Request
from cmpf.model import CMPF
from cmpf.predictor import Predictor
from cmpf.types import ClassEmbeddings

EXAMPLE_SIZE = (192, 256)
# Maximum mean difference relative to the range of values. The largest difference is not limited: rounding can change
# the sign of a mask logit near 0, and thereby what a query attends to.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class ExportReport:
    """Result of export_model.

    Attributes:
        files: the written files; two for large ONNX models.
        left_out: what the file does not contain.
        agreements: comparisons of the file with the model.
        seconds: total time.
    """

    files: tuple[Path, ...]
    left_out: tuple[str, ...]
    agreements: tuple[Agreement, ...]
    seconds: float

    def __str__(self) -> str:
        sizes = ", ".join(f"{file} ({file.stat().st_size / 1e6:.1f} MB)" for file in self.files)
        lines = [f"{sizes}, exported and checked in {self.seconds:.0f} s", "differences from the model:"]
        return "\n".join([*lines, *(f"  {agreement}" for agreement in self.agreements)])


def left_out(predictor: Predictor, *, dynamic: bool) -> tuple[str, ...]:
    """Descriptions of what the file does not contain or does not allow to change."""
    settings = predictor.model.settings
    fixed = [
        f"the weights of the class ensemble are constants: alpha {settings.alpha}, beta {settings.beta}, "
        f"objectness {settings.clip_objectness}",
        "one image per call",
    ]
    if not dynamic:
        fixed.append("one image size; load_exported fits images to it")
    return (
        "SAM's own masks (the OpenSeg Ensemble, TEST.ENSEMBLE): results are those of predict(..., ensemble=False)",
        "CLIP's text tower: text embeddings are an input, computed by CLIP or read from a file",
        "image reading, resizing and padding, and post-processing: load_exported does them",
        *fixed,
    )


def export_model(
    predictor: Predictor,
    path: str | Path,
    *,
    format: str,
    pretrained: str | None = None,
    image_size: tuple[int, int] | None = None,
    dynamic: bool = True,
) -> ExportReport:
    """Exports the network as a program that needs neither CMPF nor its configuration.

    Args:
        predictor: from cmpf.load; its model stays on its device, which may be a CPU, and in its mode.
        path: the file to write, with the suffix ".pt2" for torch-export and ".onnx" for onnx.
        format: "torch-export" or "onnx".
        pretrained: CLIP's pretrained weights, with which load_exported embeds class names; None =
            MODEL.CMPF.CLIP.PRETRAINED of the predictor's configuration.
        image_size: (H, W), multiples of 32: the size of all images if not `dynamic`, else of the tracing example.
        dynamic: whether images may have any size.
    Returns:
        The written files, what they do not contain, and their differences from the model.
    Raises:
        CMPFError: the format, the suffix or the size is wrong, or packages are missing (checked first); or the program
            disagrees with the model, in which case no file is kept.
    """
    path = Path(path)
    size = check_request(path, format=format, image_size=image_size, dynamic=dynamic)
    _check_divisor(predictor.model.encoders.size_divisibility)
    _check_parts(predictor.model)
    if pretrained is None:
        pretrained = _pretrained(predictor)
    start = time.perf_counter()
    metadata = describe(predictor, size=None if dynamic else size, pretrained=pretrained)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        EvaluationMode().of(predictor.model),
        tempfile.TemporaryDirectory(dir=path.parent, prefix=TEMPORARY) as folder,
    ):
        network = ExportNetwork(predictor.model).eval()
        program = trace(network, size=size, dynamic=dynamic)
        temporary = Path(folder) / path.name
        write_program(program, temporary, format=format, metadata=metadata)
        runner = open_program(temporary, device="cpu" if format == "onnx" else predictor.model.device.type)
        agreements = check_runner(runner, network, predictor.model, size=size, dynamic=dynamic)
        del runner  # it may keep the file open
        # The external data of a large ONNX model first, so that there is never an .onnx file without them.
        parts = sorted(Path(folder).iterdir(), key=lambda part: part.name == path.name)
        files = [part.replace(path.parent / part.name) for part in parts]
    return ExportReport(
        files=tuple(reversed(files)),
        left_out=left_out(predictor, dynamic=dynamic),
        agreements=tuple(agreements),
        seconds=time.perf_counter() - start,
    )


def check_request(
    path: Path, *, format: str, image_size: tuple[int, int] | None, dynamic: bool
) -> tuple[int, int]:
    """Checks the arguments of export_model that do not need the model; returns the size (H, W) to trace with.

    Raises:
        CMPFError: see export_model.
    """
    check_format(format, path)
    if image_size is None and not dynamic:
        raise CMPFError("a program for one image size needs that size: give image_size (--image-size H W)")
    size = image_size or EXAMPLE_SIZE
    check_size(size)
    return size


def _pretrained(predictor: Predictor) -> str:
    if predictor.cfg is None:
        raise CMPFError(
            "this predictor was built by hand, so nothing says where CLIP's weights come from: give pretrained="
        )
    return str(predictor.cfg.MODEL.CMPF.CLIP.PRETRAINED)


def _check_divisor(divisor: int) -> None:
    if STRIDE % divisor:
        raise CMPFError(
            f"MODEL.MASK_FORMER.SIZE_DIVISIBILITY {divisor}: an exported program pads images to multiples of "
            f"{STRIDE}; set it to {STRIDE}"
        )


def _check_parts(model: CMPF) -> None:
    """Rejects models with parts that cannot be exported."""
    naming = model.naming
    for option, on in (
        ("MODEL.CMPF.MASK_EMBEDDING mask_adapter", naming.mask_adapter is not None),
        ("MODEL.CMPF.TEXT_TRANSFER content_dependent", naming.text_transfer is not None),
        ("MODEL.CMPF.CLIP.TRAINED trunk", model.encoders.clip.tuned),
    ):
        if on:
            raise CMPFError(
                f"{option} and export do not go together: a program pools masks and compares them with the text of a "
                "published CLIP; export a model without it, such as FC-CLIP, or predict with the model itself"
            )
    if model.num_proposals:
        raise CMPFError(
            "MODEL.CMPF.PROPOSAL_QUERIES and export do not go together: these queries start at SAM's masks, which a "
            "program does not make; export a model that was trained without them, or predict with the model itself"
        )
    if model.encoders.sam_keeps_aspect:
        raise CMPFError(
            "MODEL.CMPF.SAM.KEEP_ASPECT and export do not go together: in a program SAM sees a square; set it to "
            "False, or predict with the model itself"
        )


@dataclass(frozen=True)
class Agreement:
    """Comparison of the exported program with the model on one input.

    Attributes:
        size: (H, W) with padding.
        classes: number of classes K.
        synonyms: number of synonyms T.
        largest: largest absolute difference by output.
        mean: mean absolute difference by output.
        spread: range of the model's values by output.
    """

    size: tuple[int, int]
    classes: int
    synonyms: int
    largest: dict[str, float]
    mean: dict[str, float]
    spread: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether every output agrees; False if one has NaN."""
        return all(self.mean[name] <= TOLERANCE * self.spread[name] for name in OUTPUTS)

    def __str__(self) -> str:
        parts = [
            f"{name}: largest difference {self.largest[name]:.1e}, "
            f"{self.largest[name] / max(self.spread[name], 1e-30):.1e} of the value range"
            for name in OUTPUTS
        ]
        height, width = self.size
        return f"{height} x {width}, {self.classes} classes, {self.synonyms} synonyms: {'; '.join(parts)}"


def check_runner(
    runner: Runner, network: ExportNetwork, model: CMPF, *, size: tuple[int, int], dynamic: bool
) -> list[Agreement]:
    """Compares the exported program with the model on two images with two vocabularies, of two sizes if `dynamic`.

    Raises:
        CMPFError: they disagree.
    """
    second_size = _other_size(size) if dynamic else size
    agreements: list[Agreement] = []
    for shape, synonyms, classes, padding in ((size, 7, 5, (0, 0)), (second_size, 20, 20, (13, 27))):
        inputs = example_inputs(
            network, shape, synonyms=synonyms, classes=classes, padding=padding, seed=len(agreements) + 1
        )
        agreements.append(_compare(runner(inputs), model_outputs(model, inputs), shape, classes, synonyms))
    for agreement in agreements:
        if not agreement.holds:
            raise CMPFError(
                "the exported program does not compute what the model computes, so no file was written. "
                f"{agreement}. Report it with the versions that cmpf doctor prints"
            )
    return agreements


@torch.no_grad()
def model_outputs(model: CMPF, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The outputs of ExportNetwork, computed by the model's own inference."""
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
    actual: Sequence[Tensor], expected: Sequence[Tensor], size: tuple[int, int], classes: int, synonyms: int
) -> Agreement:
    differences = [(a.cpu() - b.cpu()).abs() for a, b in zip(actual, expected, strict=True)]
    return Agreement(
        size=size,
        classes=classes,
        synonyms=synonyms,
        largest={name: float(d.max()) for name, d in zip(OUTPUTS, differences, strict=True)},
        mean={name: float(d.mean()) for name, d in zip(OUTPUTS, differences, strict=True)},
        spread={name: float(b.max() - b.min()) for name, b in zip(OUTPUTS, expected, strict=True)},
    )


def _other_size(size: tuple[int, int]) -> tuple[int, int]:
    """A size with another height, width and aspect ratio."""
    return size[0] + STRIDE, max(SMALLEST, size[1] // 2 // STRIDE * STRIDE + STRIDE)
