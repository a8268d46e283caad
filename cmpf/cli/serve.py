# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf serve: serves the web page."""

from __future__ import annotations

import argparse
import signal

from cmpf.cli.command import (
    DONE,
    TINY,
    Commands,
    add_command,
    add_debug,
    add_device,
    add_model,
    add_model_options,
    add_weights,
    load_model,
)

EXAMPLES = """examples:
  cmpf serve
  cmpf serve --model cmpf_convnext_large --weights cmpf_convnext_large.pth --device cuda
  cmpf serve --host 0.0.0.0 --port 8080 --queue 16 --max-upload-mb 10
"""
TINY_NOTE = (
    f"Model: {TINY}, a demonstration model trained on generated shapes only. For photographs, start cmpf serve with a "
    "full-size --model."
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "serve",
        help="serve a web page that segments images (extra: web)",
        description="Serves a web page: upload an image, type class names, view and download the segments.",
        examples=EXAMPLES,
    )
    add_model(parser)
    add_weights(parser)
    add_device(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 = all network interfaces [127.0.0.1]",
    )
    parser.add_argument("--port", type=int, help="port to listen on [first free port from 7860]")
    parser.add_argument(
        "--max-side", type=int, default=4096, help="maximum length of an image's longer side in pixels [4096]"
    )
    parser.add_argument(
        "--max-upload-mb", type=int, default=25, help="maximum size of an uploaded file in MiB [25]"
    )
    parser.add_argument("--queue", type=int, default=32, help="maximum number of waiting requests [32]")
    parser.add_argument(
        "--uploads-mb",
        type=int,
        default=512,
        help="maximum total size of uploads in MiB; the oldest are deleted first [512]",
    )
    parser.add_argument(
        "--trusted-host",
        action="append",
        default=[],
        metavar="NAME",
        help="additional host name to accept requests for, such as a proxy's; can be repeated",
    )
    add_model_options(parser)
    add_debug(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serves the page until Ctrl-C or SIGTERM, then removes the uploads."""
    from cmpf import web

    limits = web.Limits(
        max_side=arguments.max_side,
        max_upload_mb=arguments.max_upload_mb,
        uploads_mb=arguments.uploads_mb,
        queue=arguments.queue,
    )
    web.import_gradio()  # raises before the model is loaded
    predictor = load_model(arguments, device=arguments.device)
    tiny = arguments.model == TINY and arguments.weights is None
    note = TINY_NOTE if tiny else f"Model: {arguments.model}"
    if arguments.host not in LOOPBACK:
        print(f"Anyone who can reach {arguments.host} can use this page; it has no password.", flush=True)
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        web.serve(
            predictor,
            limits=limits,
            note=note,
            host=arguments.host,
            port=arguments.port,
            trusted_hosts=arguments.trusted_host,
        )
    finally:
        signal.signal(signal.SIGTERM, previous)
    return DONE
