# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Exports a model: trace, write, read again, compare, and only then leave the file."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from cmpf.common.files import TEMPORARY
from cmpf.errors import CMPFError
from cmpf.export.checking import Agreement, check_runner
from cmpf.export.formats import check_format, open_program, write_program
from cmpf.export.metadata import describe
from cmpf.export.network import ExportNetwork
from cmpf.export.tracing import STRIDE, check_size, trace
from cmpf.predictor import Predictor

EXAMPLE_SIZE = (192, 256)


@dataclass(frozen=True)
class ExportReport:
    """What export_model did. files: with large ONNX models two; seconds: of all; agreements: file against model."""

    files: tuple[Path, ...]
    left_out: tuple[str, ...]
    agreements: tuple[Agreement, ...]
    seconds: float

    def __str__(self) -> str:
        sizes = ", ".join(f"{file} ({file.stat().st_size / 1e6:.1f} MB)" for file in self.files)
        lines = [f"{sizes}, made and checked in {self.seconds:.0f} s", "agreement with the model:"]
        return "\n".join([*lines, *(f"  {agreement}" for agreement in self.agreements)])


def left_out(predictor: Predictor, *, dynamic: bool) -> tuple[str, ...]:
    """What the file will not hold or not let you change, in words."""
    settings = predictor.model.settings
    fixed = [
        f"the weights of CLIP's opinion are constants: alpha {settings.alpha}, beta {settings.beta}, "
        f"objectness {settings.clip_objectness}",
        "one image a call",
    ]
    if not dynamic:
        fixed.append("one image size; load_exported makes images fit")
    return (
        "SAM's own masks (the OpenSeg Ensemble, TEST.ENSEMBLE): results are those of predict(..., ensemble=False)",
        "CLIP's text tower: text embeddings are an input, from CLIP or from a file of words",
        "reading, resizing and padding of images, and post-processing to segments: load_exported does both",
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
    """Writes the network as a program that needs neither CMPF nor its configuration.

    Args:
        predictor: of cmpf.load; its model runs where it is, a CPU is fine.
        path: ends in ".pt2" for torch-export, ".onnx" for onnx.
        format: "torch-export" or "onnx".
        pretrained: where CLIP's weights come from, for whoever embeds words later; None = as the predictor's
            configuration says, MODEL.CMPF.CLIP.PRETRAINED.
        image_size: (H, W), multiples of 32: of every image with `dynamic` off, else of the example alone.
        dynamic: whether images may have any size.
    Returns:
        Files, what they lack, and how closely they agree with the model.
    Raises:
        CMPFError: the format, the file's name or the size is wrong, packages are missing (all before any work), or
            the program disagrees with the model; then no file is left.
    """
    path = Path(path)
    size = check_request(path, format=format, image_size=image_size, dynamic=dynamic)
    _check_divisor(predictor.model.encoders.size_divisibility)
    if pretrained is None:
        pretrained = _pretrained(predictor)
    start = time.perf_counter()
    network = ExportNetwork(predictor.model).eval()
    program = trace(network, size=size, dynamic=dynamic)
    metadata = describe(predictor, size=None if dynamic else size, pretrained=pretrained)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=TEMPORARY) as folder:
        written = Path(folder) / path.name
        write_program(program, written, format=format, metadata=metadata)
        runner = open_program(written, device="cpu" if format == "onnx" else predictor.model.device.type)
        agreements = check_runner(runner, network, predictor.model, size=size, dynamic=dynamic)
        del runner  # it may keep the file open
        # The data of a large ONNX model first: an .onnx file without its data would be half a file.
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
    """The image size (H, W) to trace with.

    Raises:
        CMPFError: see export_model; nothing of this needs the model.
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
