# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Builds the page with Gradio: layout, upload boxes, and event handlers."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from cmpf.errors import CMPFError
from cmpf.predictor import Predictor
from cmpf.web.guard import DiskQuota
from cmpf.web.inputs import MAX_IMAGES, Example, Limits
from cmpf.web.panel import TASKS, WELCOME
from cmpf.web.segmenter import MIN_SCORE, BatchSegmenter, Segmenter

UPLOAD_LIFETIME = 3600  # seconds after which uploaded images are removed
LEAD = (
    "Segments any image into the classes that you type: a frozen CLIP classifies masks, "
    "a frozen SAM knows object boundaries."
)


def import_gradio() -> Any:
    """Imports gradio.

    Raises:
        CMPFError: it cannot be imported.
    """
    try:
        import gradio
    except ImportError as error:
        raise CMPFError(
            f"the web page needs Gradio, which cannot be imported ({error}): pip install 'cmpf[web]'"
        ) from error
    return gradio


def upload_box(gradio: Any, *, value: str | None) -> Any:
    """A gradio.Image for events with `preprocess=False`, whose payload `uploaded_path` reads.

    Gradio's preprocessing decodes images before their size can be checked, logs a stack trace for damaged ones, and
    decodes base64 text that a crafted request gives in place of an upload.
    """
    return gradio.Image(
        value=value,
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        label="Image",
        height=320,
        buttons=["fullscreen"],
        elem_id="cmpf-image",
    )


def files_box(gradio: Any) -> Any:
    """A gradio.File for several images; see upload_box."""
    return gradio.File(
        file_count="multiple",
        file_types=["image"],
        label=f"Images, up to {MAX_IMAGES}",
        height=180,
        elem_id="cmpf-files",
    )


def uploaded_path(payload: Any) -> str | None:
    """The path in a payload of Gradio (FileData as a mapping); None if there is no such file."""
    path = payload.get("path") if payload else None
    return path if path and Path(path).is_file() else None


def uploaded_paths(payload: Any) -> list[str]:
    """The paths in a payload with several files, including missing files, which read_upload reports."""
    return [file["path"] for file in payload or () if file.get("path")]


def build_page(
    predictor: Predictor,
    *,
    limits: Limits | None = None,
    examples: Sequence[Example] = (),
    note: str = "",
    quota: DiskQuota | None = None,
) -> Any:
    """Builds the page as gradio.Blocks with a queue.

    Args:
        predictor: the model.
        limits: None = the defaults.
        examples: shown below the form; the first one fills the form initially.
        note: a line about the model, below the headline.
        quota: for uploads and results; None = a quota for Gradio's folder.
    Raises:
        CMPFError: Gradio is not installed.
    """
    gradio = import_gradio()
    limits = limits or Limits()
    segmenter = Segmenter(predictor, limits)
    page = gradio.Blocks(
        title="CMPF", analytics_enabled=False, delete_cache=(UPLOAD_LIFETIME // 6, UPLOAD_LIFETIME)
    )
    with page:
        gradio.HTML(_head(note))
        with gradio.Row():
            with gradio.Column(scale=2, min_width=300):
                inputs, button = _form(gradio, predictor, examples)
                files, batch_button = _batch_form(gradio)
            with gradio.Column(scale=3, min_width=300):
                panel = gradio.HTML(WELCOME, elem_id="cmpf-panel")
                download = gradio.DownloadButton(
                    "Download results (ZIP)", variant="primary", visible=False, elem_id="cmpf-zip"
                )
        quota = quota or DiskQuota(Path(files.GRADIO_CACHE), limits)
        batch = BatchSegmenter(predictor, limits, quota)
        private = {"api_visibility": "private", "preprocess": False}
        # The model serves one visitor at a time.
        exclusive = {"concurrency_limit": 1, "concurrency_id": "model", **private}

        def segment(image: Any, *request: Any) -> str:
            return segmenter(uploaded_path(image), *request)

        def segment_all(images: Any, *request: Any) -> tuple[str, Any]:
            result, path = batch(uploaded_paths(images), *request)
            return result, gradio.update(value=path, visible=path is not None)

        def check(image: Any) -> str:
            return segmenter.check(uploaded_path(image))

        button.click(segment, inputs, panel, **exclusive)
        batch_button.click(segment_all, [files, *inputs[1:]], [panel, download], **exclusive)
        button.click(lambda: gradio.update(visible=False), None, download, queue=False, **private)
        inputs[0].upload(check, inputs[0], panel, show_progress="hidden", queue=False, **private)
    page.queue(max_size=limits.queue, default_concurrency_limit=1)
    return page


def _head(note: str) -> str:
    line = f"<p class='cmpf-note'>{escape(note)}</p>" if note else ""
    return f"<header class='cmpf-head'><h1>CMPF</h1><p>{LEAD}</p>{line}</header>"


def _form(gradio: Any, predictor: Predictor, examples: Sequence[Example]) -> tuple[list[Any], Any]:
    """The input components in the order of Segmenter's arguments, and the button."""
    first = examples[0] if examples else None
    image = upload_box(gradio, value=str(first.path) if first else None)
    words = gradio.Dropdown(
        _suggestions(predictor),
        value=list(first.words) if first else [],
        label="Classes",
        info="Press Enter to add a class. Separate synonyms with commas: person, pedestrian",
        multiselect=True,
        allow_custom_value=True,
        num_choices_shown=8,
        elem_id="cmpf-words",
    )
    task = gradio.Radio(
        [(name.capitalize(), name) for name in TASKS],
        value=first.task if first else TASKS[0],
        label="Task",
        elem_id="cmpf-task",
    )
    ensemble = gradio.Checkbox(
        value=predictor.mask_ensemble is not None,
        label="Add SAM's masks for classes not seen in training",
        visible=predictor.mask_ensemble is not None,
        elem_id="cmpf-ensemble",
    )
    score = gradio.Slider(
        0,
        1,
        value=MIN_SCORE,
        step=0.05,
        label="Minimum score",
        info="Segments and instances with a lower score are hidden",
        elem_id="cmpf-score",
    )
    button = gradio.Button("Segment", variant="primary", size="lg", elem_id="cmpf-segment")
    if examples:
        _gallery(gradio, examples, [image, words, task])
    return [image, words, task, ensemble, score], button


def _batch_form(gradio: Any) -> tuple[Any, Any]:
    """The upload box for several images, and its button."""
    with gradio.Accordion("Multiple images (results as a ZIP file)", open=False, elem_id="cmpf-batch"):
        files = files_box(gradio)
        button = gradio.Button("Segment all", elem_id="cmpf-segment-all")
    return files, button


def _gallery(gradio: Any, examples: Sequence[Example], outputs: list[Any]) -> None:
    """Thumbnails of the examples; a click fills image, words and task."""
    thumbnails = gradio.Dataset(
        components=[gradio.Image(visible=False)],
        samples=[[str(example.path)] for example in examples],
        type="index",
        label="Examples",
        elem_id="cmpf-examples",
    )

    def fill(index: int) -> tuple[str, list[str], str]:
        example = examples[index]
        return str(example.path), list(example.words), example.task

    thumbnails.click(fill, thumbnails, outputs, show_progress="hidden", api_visibility="private")


def _suggestions(predictor: Predictor) -> list[str]:
    """The names of all known classes, those of the training vocabulary first."""
    return list(dict.fromkeys(name for known in predictor.known for name in known.names))
