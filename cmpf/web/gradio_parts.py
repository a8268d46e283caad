# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What CMPF needs of Gradio beyond its ready components."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cmpf.errors import CMPFError


def import_gradio() -> Any:
    """The package.

    Raises:
        CMPFError: it is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise CMPFError(
            f"the web page needs Gradio, which cannot be imported ({error}): pip install 'cmpf[web]'"
        ) from error
    return gradio


def upload_box(gradio: Any, *, value: str | None) -> Any:
    """gradio.Image that hands over the uploaded file itself, whatever is in it.

    Gradio's own decodes images before anyone could look at their size, ends with a stack trace in the log for
    damaged ones, and fetches addresses or decodes base64 text that a handmade request gives in place of an upload.
    The two methods are replaced on the object: for each subclass of a component Gradio writes a .pyi file beside
    the source.
    """
    box = gradio.Image(
        value=value,
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        label="Image",
        height=320,
        buttons=["fullscreen"],
        elem_id="cmpf-image",
    )
    store = box.async_move_resource_to_block_cache

    async def store_uploads_only(path: str | Path | None) -> str | None:
        if str(path).lower().startswith(("http:", "https:")):
            raise gradio.Error("Addresses are not downloaded; upload the image.", print_exception=False)
        stored: str | None = await store(path)
        return stored

    box.preprocess = uploaded_path
    box.async_move_resource_to_block_cache = store_uploads_only
    return box


def uploaded_path(payload: Any) -> str | None:
    """Path of the file that Gradio's FileData names; None where there is none."""
    path = getattr(payload, "path", None)
    return path if path and Path(path).is_file() else None
