# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Writes and runs program files of torch.export and ONNX, with metadata."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.export import ExportedProgram

from cmpf import __version__
from cmpf.encoders.text import TEMPLATES
from cmpf.errors import CMPFError, WeightsError
from cmpf.export.network import INPUTS, LARGEST, OUTPUTS, SMALLEST, STRIDE
from cmpf.inference import InferenceSettings
from cmpf.predictor import Predictor

TORCH, ONNX = "torch-export", "onnx"
ENDINGS = {TORCH: ".pt2", ONNX: ".onnx"}
FORMATS = tuple(ENDINGS)
METADATA = "cmpf.json"  # name of the metadata inside a file
OPSET = 20  # the first one with Gelu
# Larger weights are stored in a second file: ONNX files are limited to 2 GiB.
SINGLE_FILE_BYTES = 1_800_000_000
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
VERSION = 1  # of the metadata format
INPUT_TEXTS = {
    "image": "(1, 3, H, W) float32, RGB, 0..255, padded at the right and at the bottom",
    "size": "(2,) int64, height and width of the image without padding",
    "text": "(T, E) float32, one L2-normalized embedding a synonym, those of a class next to each other",
    "class_of_row": "(T,) int64, class index of each row, non-decreasing, 0..K-1",
    "seen": "(K,) bool, classes that share a word with train_vocabulary",
}
OUTPUT_TEXTS = {
    "mask_cls": "(Q, K + 1) float32, logarithm of the class distribution of each mask, void last",
    "mask_pred": "(Q, H/4, W/4) float32, mask logits; enlarge bilinearly to H x W, then cut the padding",
}
RECIPE = (
    "each synonym goes into each template; L2-normalize CLIP's text embeddings of the prompts, take their mean over "
    "the templates, L2-normalize it"
)


class Runner(Protocol):
    """A loaded program; `metadata` is what export_model stored with it."""

    metadata: dict[str, Any]

    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Computes the outputs of ExportNetwork from its inputs by name; ONNX returns them on the CPU."""


def check_format(name: str, path: Path) -> None:
    """Raises CMPFError unless a file with this path can be written in this format on this machine."""
    if name not in FORMATS:
        raise CMPFError(f"export format {name!r} is unknown; choose one of {', '.join(FORMATS)}")
    if path.suffix != ENDINGS[name]:
        raise CMPFError(f"{path}: a file of format {name} ends in {ENDINGS[name]}")
    if path.is_dir():
        raise CMPFError(f"{path} is a folder; give the path of a file")
    if name == ONNX:
        check_packages(ONNX_PACKAGES)


def check_packages(packages: tuple[str, ...]) -> None:
    """Raises CMPFError if packages are not installed, and names them."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise CMPFError(f"ONNX needs the packages {', '.join(missing)}: pip install 'cmpf[export]'")


def write_program(program: ExportedProgram, path: Path, *, format: str, metadata: dict[str, Any]) -> None:
    """Writes a program; a large ONNX model also gets a file `path` + ".data"."""
    text = json.dumps(metadata, ensure_ascii=False)
    if format == TORCH:
        torch.export.save(program, path, extra_files={METADATA: text})
        return
    onnx_program = _to_onnx(program)
    onnx_program.model.metadata_props[METADATA] = text
    weights = sum(value.nbytes for value in program.state_dict.values())
    onnx_program.save(str(path), external_data=weights > SINGLE_FILE_BYTES)


def open_program(path: Path, *, device: str) -> Runner:
    """Opens a file that export_model wrote.

    Args:
        path: the file.
        device: e.g. "cpu", "cuda" or "cuda:1".
    Raises:
        WeightsError: the file is missing, damaged, or was not written by CMPF.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; cmpf export makes one")
    if path.suffix == ENDINGS[TORCH]:
        return TorchRunner(path, device=device)
    if path.suffix == ENDINGS[ONNX]:
        check_packages(("onnxruntime",))
        return ONNXRunner(path, device=device)
    raise WeightsError(f"{path}: the name of an exported model ends in {' or '.join(ENDINGS.values())}")


class TorchRunner:
    """Runs a program of torch.export. Open only files that you trust: loading one may run code."""

    def __init__(self, path: Path, *, device: str) -> None:
        files = {METADATA: ""}
        try:
            program = torch.export.load(path, extra_files=files)
        except Exception as error:  # a damaged archive may raise any error, also from torch's C++ code
            raise WeightsError(f"{path}: not a file of torch.export, or damaged ({_short(error)})") from error
        self.metadata = _parse_metadata(files[METADATA], path)
        self.device = torch.device(device)
        if self.device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, self.device)
        self.module = program.module()

    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See Runner."""
        with torch.no_grad():
            mask_cls, mask_pred = self.module(**{name: inputs[name].to(self.device) for name in INPUTS})
        return mask_cls, mask_pred


class ONNXRunner:
    """Runs an ONNX model with onnxruntime, with as many threads as torch uses."""

    def __init__(self, path: Path, *, device: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        cuda = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=[*cuda, "CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no common public base class
            raise WeightsError(f"{path}: not an ONNX model, or damaged ({_short(error)})") from error
        custom = self.session.get_modelmeta().custom_metadata_map
        self.metadata = _parse_metadata(custom.get(METADATA, ""), path)

    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See Runner."""
        feed = {name: inputs[name].cpu().numpy() for name in INPUTS}
        mask_cls, mask_pred = self.session.run(list(OUTPUTS), feed)
        return torch.from_numpy(mask_cls), torch.from_numpy(mask_pred)


def _to_onnx(program: ExportedProgram) -> Any:
    """Converts a program to ONNX and folds constants.

    The exporter's optimization is disabled: it treats constants below 1e-8 as 0 and removes the additions that keep the
    mean over an empty mask and the logarithm of an unlikely class finite.
    """
    from onnxscript import optimizer

    onnx_logger = logging.getLogger("onnxscript")
    level = onnx_logger.level
    onnx_logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            onnx_program = torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(INPUTS),
                output_names=list(OUTPUTS),
                opset_version=OPSET,
                optimize=False,
                verbose=False,
            )
        if onnx_program is None:
            raise CMPFError("torch.onnx.export gave no program; update torch")
        optimizer.inline(onnx_program.model)
        optimizer.fold_constants(onnx_program.model)
        optimizer.remove_unused_nodes(onnx_program.model)
        optimizer.remove_unused_functions(onnx_program.model)
    finally:
        onnx_logger.setLevel(level)
    return onnx_program


def _parse_metadata(text: str | bytes, path: Path) -> dict[str, Any]:
    try:
        metadata: dict[str, Any] = json.loads(text)
        return metadata
    except ValueError as error:
        raise WeightsError(f"{path}: holds no {METADATA}, so it is not of cmpf export") from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def describe(predictor: Predictor, *, size: tuple[int, int] | None, pretrained: str) -> dict[str, Any]:
    """Metadata of an exported program, as JSON-compatible values.

    Args:
        predictor: the exported predictor.
        size: (H, W) of all images; None = any.
        pretrained: CLIP's pretrained weights, see build_clip.
    """
    model = predictor.model
    clip = model.encoders.clip
    return {
        "version": VERSION,
        "made_with": {"cmpf": __version__, "torch": str(torch.__version__)},
        "inputs": INPUT_TEXTS,
        "outputs": OUTPUT_TEXTS,
        "image": {
            "size": None if size is None else list(size),
            "multiple_of": STRIDE,
            "smallest": SMALLEST,
            "largest": LARGEST,
            "short_side": predictor.short_side,
            "max_side": predictor.max_side,
        },
        "text": {
            "clip": clip.name.removeprefix("clip/"),
            "pretrained": pretrained,
            "width": clip.embed_dim,
            "templates": list(TEMPLATES),
            "recipe": RECIPE,
        },
        "train_vocabulary": {
            "classes": [list(words) for words in model.train_vocabulary.classes],
            "things": list(model.train_vocabulary.things),
        },
        "settings": {**asdict(model.settings), "mask_ensemble": None, "proposals": False},
        "encoders": model.encoder_hashes(),
    }


def check_version(metadata: dict[str, Any], source: object) -> None:
    """Raises WeightsError if this version of CMPF cannot read the metadata."""
    if metadata.get("version") != VERSION:
        raise WeightsError(
            f"{source}: exported in form {metadata.get('version')!r}, this CMPF reads {VERSION}; "
            "export the model again"
        )


def settings_of(metadata: dict[str, Any]) -> InferenceSettings:
    """The inference settings of the exported model; alpha and beta are constants of the program."""
    return InferenceSettings(**metadata["settings"])
