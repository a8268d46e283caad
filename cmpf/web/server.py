# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Serves the page, with a private folder for uploads that is removed at the end."""

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
from cmpf.web.guard import DiskQuota, Guard, close_stalled_connections
from cmpf.web.inputs import Limits, write_examples
from cmpf.web.page import build_page, import_gradio

HOST = "127.0.0.1"
FOLDER_VARIABLE, ANALYTICS_VARIABLE = "GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"
ASSETS = files("cmpf") / "assets"
# Sessions whose last result Gradio keeps, besides those in the queue. The page does not need the results, but if a
# waiting session is dropped, Gradio's queue stops with a KeyError.
MAX_SESSIONS = 16


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
    """Serves the page in background threads while the block runs; only one page per process at a time.

    Args:
        predictor, limits, note: see build_page.
        host: address to listen on; 127.0.0.1 = this machine only, 0.0.0.0 = all network interfaces.
        port: None = the first free port from 7860.
        trusted_hosts: host names that requests may use, besides IP addresses, localhost and this machine's name.
    Yields:
        The URL of the page.
    Raises:
        CMPFError: Gradio is not installed, or the port or host cannot be used.
    """
    with _private_folder() as folder:
        gradio = import_gradio()
        limits = limits or Limits()
        examples = write_examples(folder)
        quota = DiskQuota(folder, limits)
        page = build_page(predictor, limits=limits, examples=examples, note=note, quota=quota)
        guard = partial(Guard, limits=limits, hosts=(host, *trusted_hosts), quota=quota)
        stop = threading.Event()
        try:
            url = _launch(gradio, page, limits, host, port, guard)
            threading.Thread(target=close_stalled_connections, args=(page.server, stop), daemon=True).start()
            yield url
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
    with running(
        predictor, limits=limits, host=host, port=port, note=note, trusted_hosts=trusted_hosts
    ) as url:
        print(f"CMPF is serving on {url} (press Ctrl-C to stop)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopped", flush=True)


@contextmanager
def _private_folder() -> Iterator[Path]:
    """Sets Gradio's upload folder to a temporary one that only this user can read, and disables Gradio's analytics."""
    previous = {name: os.environ.get(name) for name in (FOLDER_VARIABLE, ANALYTICS_VARIABLE)}
    with tempfile.TemporaryDirectory(prefix="cmpf-web-", ignore_cleanup_errors=True) as folder:
        os.environ.update({FOLDER_VARIABLE: folder, ANALYTICS_VARIABLE: "False"})
        try:
            yield Path(folder)
        finally:
            for name, value in previous.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _launch(
    gradio: Any, page: Any, limits: Limits, host: str, port: int | None, guard: Callable[..., Guard]
) -> str:
    """Starts the server in the background; returns the URL of the page."""
    from starlette.middleware import Middleware  # a dependency of Gradio

    _check_can_listen(host, port)
    # By default Gradio keeps the unfetched results of 2,000 sessions, a megabyte each; there is no argument for that.
    page._queue.pending_messages_per_session.max_size = MAX_SESSIONS + 2 * limits.queue
    _, url, _ = page.launch(
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
        state_session_capacity=MAX_SESSIONS,
        app_kwargs={"middleware": [Middleware(guard)]},
        theme=_theme(gradio),
        css=(ASSETS / "web_page.css").read_text(encoding="utf-8"),
        head=f"<script>{(ASSETS / 'web_page.js').read_text(encoding='utf-8')}</script>",
    )
    return str(url)


def _check_can_listen(host: str, port: int | None) -> None:
    """Checks host and port, because Gradio retries forever if the host does not exist.

    Raises:
        CMPFError: the port or host cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port or 0), family=family).close()
    except (OSError, OverflowError) as error:  # OverflowError: port > 65535
        where = f"{host}, port {port}" if port else host
        raise CMPFError(f"cannot listen on {where}: {error}; choose another --port or --host") from error


def _theme(gradio: Any) -> Any:
    """A theme with system fonts, so that the page loads nothing from other servers."""
    return gradio.themes.Default(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="lg",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        # The default colors have contrast ratios of 2.56 and 4.46; WCAG AA requires 4.5.
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
    )
