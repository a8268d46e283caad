# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf export: exports the network with torch.export or to ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path

from cmpf.cli.command import (
    DONE,
    Commands,
    add_command,
    add_debug,
    add_model,
    add_model_options,
    add_weights,
    load_model,
)

EXAMPLES = """examples:
  cmpf export --format onnx --output tiny.onnx
  cmpf export --model output/mine --format torch-export --output mine.pt2
  cmpf export --format onnx --output tiny.onnx --vocabulary "cat; dog, puppy; grass"
  cmpf export --format onnx --output tiny.onnx --no-dynamic --image-size 640 864

The file gives the same predictions as the model with ensemble=False:
  cmpf.export.load_exported("tiny.onnx").predict("photo.jpg", ["cat", "dog, puppy"]).save("out/")
"""
# Not supported in exported programs: the mask ensemble, which needs a second SAM, torch.compile and autocast.
OVERRIDES = ("TEST.ENSEMBLE.ENABLED", False, "MODEL.CMPF.COMPILE", False, "MODEL.CMPF.PRECISION", "fp32")
WORDS_SUFFIX = ".words.safetensors"


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "export",
        help="export the network with torch.export or to ONNX",
        description="Exports the network, with text embeddings as an input, to a file that runs without CMPF,\n"
        "and checks it against the model.",
        examples=EXAMPLES,
    )
    add_model(parser)
    add_weights(parser)
    parser.add_argument("--format", required=True, choices=("torch-export", "onnx"), help="export format")
    parser.add_argument("--output", required=True, metavar="FILE", help="output file: NAME.pt2 or NAME.onnx")
    parser.add_argument(
        "--image-size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="image height and width, multiples of 32; required with --no-dynamic",
    )
    parser.add_argument("--no-dynamic", action="store_true", help="fix the image size")
    parser.add_argument(
        "--vocabulary",
        metavar="WORDS",
        help="also write the text embeddings of these classes (as in cmpf predict) to NAME.words.safetensors, for "
        "machines without CLIP",
    )
    add_model_options(parser)
    add_debug(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints what the exported program will not contain, then writes it and compares it with the model."""
    from cmpf.export import export_model, left_out, save_words
    from cmpf.export.exporting import check_request

    dynamic, output = not arguments.no_dynamic, Path(arguments.output)
    size = tuple(arguments.image_size) if arguments.image_size else None
    check_request(output, format=arguments.format, image_size=size, dynamic=dynamic)
    predictor = load_model(arguments, device="cpu", overrides=OVERRIDES)
    vocabulary = predictor.vocabulary(arguments.vocabulary) if arguments.vocabulary is not None else None
    print("not in the exported file, or fixed:")
    print("\n".join(f"  {part}" for part in left_out(predictor, dynamic=dynamic)), flush=True)
    report = export_model(
        predictor,
        output,
        format=arguments.format,
        image_size=size,
        dynamic=dynamic,
    )
    print(report)
    if vocabulary is not None:
        print(save_words(predictor.model.encoders.clip, vocabulary, output.with_suffix(WORDS_SUFFIX)))
    return DONE
