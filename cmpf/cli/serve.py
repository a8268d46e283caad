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
    f"Model: {TINY}, trained on generated shapes only. It shows that everything works; for photographs start "
    "cmpf serve with a full-size --model."
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "serve",
        help="open a web page for images and words (extra: web)",
        description="Serves a web page: drop an image, type words, see and download the segments.",
        examples=EXAMPLES,
    )
    add_model(parser)
    add_weights(parser)
    add_device(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 = every network [127.0.0.1]"
    )
    parser.add_argument("--port", type=int, help="[the first free one from 7860]")
    parser.add_argument(
        "--max-side", type=int, default=4096, help="longer side in pixels that an image may have [4096]"
    )
    parser.add_argument("--max-upload-mb", type=int, default=25, help="MiB that a file may have [25]")
    parser.add_argument("--queue", type=int, default=32, help="visitors that may wait for their turn [32]")
    parser.add_argument(
        "--uploads-mb", type=int, default=512, help="MiB that all uploads may take; the oldest go first [512]"
    )
    parser.add_argument(
        "--trusted-host",
        action="append",
        default=[],
        metavar="NAME",
        help="name under which the page may be reached, such as that of a proxy; again for more",
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
        print(
            f"Everyone who can reach {arguments.host} can use this page; it asks for no password.", flush=True
        )
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
