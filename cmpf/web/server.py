# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Runs the page on a port, with a private folder for uploads that is removed at the end."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from cmpf.errors import CMPFError
from cmpf.predictor import Predictor
from cmpf.web.guard import Guard, Room, end_half_requests
from cmpf.web.inputs import Limits, write_examples
from cmpf.web.page import build_page, import_gradio

HOST = "127.0.0.1"
FOLDER, ANALYTICS = "GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"  # environment variables of Gradio
ASSETS = files("cmpf") / "assets"
# Visitors of whom Gradio keeps the last result, beside those in the queue; nothing of the page needs it. Where one that
# waits is forgotten, Gradio's queue ends with a KeyError and nobody is served any more.
REMEMBERED_SESSIONS = 16


@contextmanager
def running(
    predictor: Predictor,
    *,
    limits: Limits | None = None,
    host: str = HOST,
    port: int | None = None,
    note: str = "",
    trusted_hosts: Sequence[str] = (),
) -> Iterator[str]:
    """Serves the page from other threads while the block runs; one page per process at a time.

    Args:
        predictor, limits, note: see build_page.
        host: address to listen on; 127.0.0.1 = this machine only, 0.0.0.0 = everyone who can reach it.
        port: None = the first free one from 7860.
        trusted_hosts: names under which the page may be reached, beside numbers, localhost and this machine's name.
    Yields:
        The page's address.
    Raises:
        CMPFError: Gradio is not installed, or the port or host cannot be used.
    """
    with _private_folder() as folder:
        gradio = import_gradio()
        limits = limits or Limits()
        examples = write_examples(folder)
        room = Room(folder, limits)
        page = build_page(predictor, limits=limits, examples=examples, note=note, room=room)
        guard = partial(Guard, limits=limits, hosts=(host, *trusted_hosts), room=room)
        stop = threading.Event()
        try:
            address = _launch(gradio, page, limits, host, port, guard)
            threading.Thread(target=end_half_requests, args=(page.server, stop), daemon=True).start()
            yield address
        finally:
            stop.set()
            page.close(verbose=False)


def serve(
    predictor: Predictor,
    *,
    limits: Limits | None = None,
    host: str = HOST,
    port: int | None = None,
    note: str = "",
    trusted_hosts: Sequence[str] = (),
) -> None:
    """Serves the page until Ctrl-C; see running."""
    options: dict[str, Any] = {"limits": limits, "host": host, "port": port, "note": note}
    with running(predictor, trusted_hosts=trusted_hosts, **options) as address:
        print(f"CMPF listens on {address} (Ctrl-C stops it)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopped", flush=True)


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder that only this user can read, as Gradio's place for uploads; Gradio's reports home are off."""
    before = {name: os.environ.get(name) for name in (FOLDER, ANALYTICS)}
    with tempfile.TemporaryDirectory(prefix="cmpf-web-", ignore_cleanup_errors=True) as folder:
        os.environ.update({FOLDER: folder, ANALYTICS: "False"})
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _launch(
    gradio: Any, page: Any, limits: Limits, host: str, port: int | None, guard: Callable[..., Guard]
) -> str:
    from starlette.middleware import Middleware  # comes with Gradio

    _check_place(host, port)
    # Gradio keeps results of 2,000 visitors that were never fetched, a megabyte each, and has no argument for that.
    page._queue.pending_messages_per_session.max_size = REMEMBERED_SESSIONS + 2 * limits.queue
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        max_file_size=limits.max_upload_mb * 2**20,
        allowed_paths=[],
        share=False,
        quiet=True,
        show_error=False,
        prevent_thread_lock=True,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        state_session_capacity=REMEMBERED_SESSIONS,
        app_kwargs={"middleware": [Middleware(guard)]},
        theme=_theme(gradio),
        css=(ASSETS / "web_page.css").read_text(encoding="utf-8"),
        head=f"<script>{(ASSETS / 'web_page.js').read_text(encoding='utf-8')}</script>",
    )
    return str(address)


def _check_place(host: str, port: int | None) -> None:
    """Gradio itself tries a host that does not exist again and again.

    Raises:
        CMPFError: nobody can listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port or 0), family=family).close()
    except (OSError, OverflowError) as error:  # the second for ports beyond 65535
        where = f"{host}, port {port}" if port else host
        raise CMPFError(f"cannot listen on {where}: {error}; choose another --port or --host") from error


def _theme(gradio: Any) -> Any:
    """Fonts of the visitor's system: the page loads nothing from elsewhere."""
    return gradio.themes.Default(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="lg",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        # Of the theme's own colors on white the contrast is 2.56 and 4.46; 4.5 can be read by most people.
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
    )
