# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Converts checkpoints: published ones (FrozenSeg, FC-CLIP and its kin) to CMPF's small safetensors files, or back.

Exit codes: 0 done; 1 error (one line; --debug shows the traceback); 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmpf.config import Config, with_overrides

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


from cmpf.common.files import replacing
from cmpf.config import get_cfg
from cmpf.errors import CMPFError, WeightsError
from cmpf.factory.model import build_network
from cmpf.model import CMPF
from cmpf.weights import (
    Contents,
    LoadReport,
    Naming,
    PartReport,
    Parts,
    read_contents,
    split,
    to_published,
    write,
    write_safetensors,
)
from cmpf.weights import load as load_weights
from cmpf.weights.checks import holds_whole
from cmpf.weights.download import file_sha256
from cmpf.weights.key_mapping import OWN_CLIP_PREFIX
from cmpf.weights.saving import hash_weights

EXAMPLES = """examples:
  tools/convert_checkpoint.py frozenseg.pth cmpf.safetensors
  tools/convert_checkpoint.py frozenseg.pth cmpf.safetensors \\
      --config-file configs/coco/cmpf/convnext_large_eval_ade20k.yaml MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS 3
  tools/convert_checkpoint.py cmpf.safetensors published.pth --to published

With --config-file the weights are loaded into that model first, which shows whether they fit, and the file records
the names of the encoders. Without it the encoders inside the input are recorded as "clip" and "sam".
"""
ENDINGS = {"cmpf": (".safetensors",), "published": (".pth", ".pt", ".safetensors")}
RAW = {Naming.OPENCLIP: "MODEL.CMPF.CLIP.PRETRAINED", Naming.SAM: "MODEL.CMPF.SAM.CHECKPOINT"}
TUNED = (Naming.MAFTP, Naming.OVRCOAT)  # methods that train their CLIP


@dataclass(frozen=True)
class Converted:
    """A checkpoint taken apart. encoders: name -> content hash, as far as known. lines: what to tell the user.

    tuned: its CLIP was trained too, and belongs into the file.
    """

    parts: Parts
    encoders: dict[str, str]
    lines: list[str]
    tuned: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    parser = _parser()
    arguments = parser.parse_intermixed_args(argv)
    if arguments.opts and not arguments.config_file:
        parser.error(f"{' '.join(arguments.opts)}: KEY VALUE need --config-file")
    try:
        for line in convert(arguments):
            print(line)
        return 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    except Exception as error:
        if arguments.debug:
            raise
        kind = "" if isinstance(error, CMPFError) else f"{type(error).__name__}: "
        print(f"error: {kind}{error}", file=sys.stderr)
    return 1


def convert(arguments: argparse.Namespace) -> list[str]:
    """Reads the input and writes the output; returns what there is to tell."""
    source, target = Path(arguments.input), Path(arguments.output)
    _check_target(target, arguments.to, overwrite=arguments.overwrite)
    cfg = get_cfg(arguments.config_file, arguments.opts) if arguments.config_file else None
    contents = read_contents(source)
    parts = _taken_apart(contents)
    converted = _by_names(contents, parts) if cfg is None else _by_model(contents, parts, cfg)
    if arguments.to == "published":
        _write_published(to_published(converted.parts), target)
    else:
        origin = {"file": source.name, "naming": parts.naming.value, "sha256": file_sha256(source)}
        kept = {k: v for k, v in contents.metadata.items() if k not in ("format_version", "encoders")}
        metadata: dict[str, Any] = {**kept, "converted_from": origin}
        clip = converted.parts.clip if converted.tuned else {}
        weights = converted.parts.trained | {OWN_CLIP_PREFIX + name: value for name, value in clip.items()}
        write(weights, target, encoders=converted.encoders, metadata=metadata)
    return [*converted.lines, f"{target}: {target.stat().st_size / 1e6:.1f} MB"]


def _check_target(target: Path, to: str, *, overwrite: bool) -> None:
    if target.suffix not in ENDINGS[to]:
        raise WeightsError(f"{target}: --to {to} writes files that end in {', '.join(ENDINGS[to])}")
    if target.exists() and not overwrite:
        raise WeightsError(f"{target} exists; give another name, or --overwrite to replace it")


def _taken_apart(contents: Contents) -> Parts:
    try:
        parts = split(contents.tensors)
    except WeightsError as error:
        raise WeightsError(f"{contents.source}: {error}") from error
    if parts.naming in RAW:
        raise WeightsError(
            f"{contents.source} holds the frozen encoder of {parts.naming.value} and nothing that CMPF trains; "
            f"there is nothing to convert. Give the file itself as {RAW[parts.naming]}"
        )
    return parts


def _by_names(contents: Contents, parts: Parts) -> Converted:
    """Renames only; what has no known name is left out."""
    unknown: tuple[str, ...] = ()
    if (
        parts.naming is not Naming.OWN
    ):  # a published name that came through unchanged is one that no rule knows
        unknown = tuple(n for n in parts.trained if n in contents.tensors and n != "void_embedding.weight")
    trained = {name: value for name, value in parts.trained.items() if name not in unknown}
    encoders = dict(contents.metadata.get("encoders", {}))
    own = parts.naming is Naming.OWN and bool(contents.metadata)  # of ours only a tuned CLIP is in a file
    tuned = bool(parts.clip) and (own or parts.naming in TUNED)
    for kind, weights in (("clip", {} if tuned else parts.clip), ("sam", parts.sam)):
        if holds_whole(weights, kind):  # the hash of less would fit no model
            encoders[kind] = hash_weights(_as_float32(weights))
    report = LoadReport(
        loaded=tuple(trained),
        unexpected=unknown,
        clip=PartReport(loaded=tuple(parts.clip)),
        sam=PartReport(loaded=tuple(parts.sam)),
        ignored=parts.ignored,
        naming=parts.naming.value,
    )
    lines = [f"{contents.source}: {report}", _recorded(encoders)]
    return Converted(replace(parts, trained=trained), encoders, lines, tuned)


def _by_model(contents: Contents, parts: Parts, cfg: Config) -> Converted:
    """Loads the weights into the configured model, which must take them all, and takes them from there."""
    model = _model(cfg, parts)
    report = load_weights(model, contents.source, allow_unused=cfg.MODEL.ALLOW_UNUSED_WEIGHTS)
    tuned = model.encoders.clip.tuned
    encoders = {
        encoder.name: encoder.weights_hash
        for kind, encoder in model.frozen_encoders().items()
        if not getattr(report, kind).missing and not (tuned and kind == "clip")
    }
    trained = {
        name: value.clone()
        for name, value in model.trained_state_dict().items()
        if not name.startswith(OWN_CLIP_PREFIX)
    }
    lines = [f"{contents.source}: {report}", _recorded(encoders)]
    return Converted(replace(parts, trained=trained), encoders, lines, tuned)


def _model(cfg: Config, parts: Parts) -> CMPF:
    """The model on the CPU; encoders that the input brings need no files of their own."""
    changes: dict[str, Any] = {"MODEL.WEIGHTS": "", "TEST.ENSEMBLE.ENABLED": False}
    if parts.clip:
        changes["MODEL.CMPF.CLIP.PRETRAINED"] = ""
    if parts.sam:
        changes["MODEL.CMPF.SAM.CHECKPOINT"] = "random"
    return build_network(with_overrides(cfg, changes))


def _write_published(state: Mapping[str, Tensor], target: Path) -> None:
    if target.suffix == ".safetensors":
        write_safetensors(state, target, header={"format": "pt"})
        return
    with replacing(target) as temporary:
        torch.save(dict(state), temporary)


def _as_float32(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In the precision in which models hold them."""
    return {n: value.float() if value.is_floating_point() else value for n, value in weights.items()}


def _recorded(encoders: Mapping[str, str]) -> str:
    if not encoders:
        return "encoders: unknown (the input has none; --config-file FILE records those of a configuration)"
    return "encoders: " + ", ".join(f"{name} (hash {content[:12]})" for name, content in encoders.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", help="checkpoint of CMPF, FrozenSeg or FC-CLIP: .safetensors, .pth or .pt")
    parser.add_argument("output", help="file to write; for --to published .pth, .pt or .safetensors")
    parser.add_argument("--to", choices=tuple(ENDINGS), default="cmpf", help="whose names to write [cmpf]")
    parser.add_argument("--config-file", help="configuration of the model that the weights belong to")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it is there")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of the configuration")
    return parser


if __name__ == "__main__":
    sys.exit(main())
