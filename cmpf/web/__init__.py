# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The web page of `cmpf serve`. Gradio (extra `web`) is imported when a page is built."""

from __future__ import annotations

from cmpf.web.inputs import Limits
from cmpf.web.page import build_page, import_gradio
from cmpf.web.server import running, serve

__all__ = ["Limits", "build_page", "import_gradio", "running", "serve"]
