# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The page's layout, its upload box, and the one function behind its button."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from cmpf.errors import CMPFError
from cmpf.inference.settings import Selection
from cmpf.predictor import Predictor
from cmpf.web.inputs import Example, Limits, class_words, read_upload
from cmpf.web.panel import TASKS, WELCOME, error_panel, result_panel, view_of

logger = logging.getLogger(__name__)
MIN_SCORE = Selection().min_score
UPLOAD_SECONDS = 3600  # uploaded images are removed after this time
LEAD = (
    "Segments any image into the words that you type: frozen CLIP says what things are, "
    "frozen SAM says where they end."
)


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


class Segmenter:
    """What the button does: an uploaded image and words -> the HTML of the result panel, or of an error."""

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        self.predictor = predictor
        self.limits = limits

    def __call__(
        self,
        path: str | None,
        chips: Sequence[str] | None,
        task: str,
        ensemble: bool = False,
        min_score: float = MIN_SCORE,
    ) -> str:
        """
        Args:
            path: of the uploaded file; None = there is no image yet.
            chips: see class_words.
            task: one of TASKS.
            ensemble: add SAM's own masks, where the model has them.
            min_score: of segments and instances, 0..1.
        """
        try:
            return self._segment(path, chips, task, ensemble, min_score)
        except CMPFError as error:
            return error_panel(str(error))
        except (
            Exception
        ) as error:  # a bug or a machine's trouble: visitors get its kind, the terminal the rest
            logger.exception("a request of the web page failed")
            return error_panel(
                f"The server had trouble ({type(error).__name__}); the terminal of cmpf serve says more."
            )

    def check(self, path: str | None) -> str:
        """The panel after an upload: an error at once if the image cannot be used."""
        try:
            if path is not None:
                read_upload(path, self.limits)
        except CMPFError as error:
            return error_panel(str(error))
        return WELCOME

    def _segment(
        self, path: str | None, chips: Sequence[str] | None, task: str, ensemble: bool, min_score: float
    ) -> str:
        if path is None:
            raise CMPFError("no image yet; drop one on the box at the left, or take an example")
        if task not in TASKS:
            raise CMPFError(f"task {str(task)[:30]!r} is unknown; choose one of {', '.join(TASKS)}")
        words = class_words(chips)
        upload = read_upload(path, self.limits)
        start = time.perf_counter()
        with_sam = bool(ensemble) and self.predictor.mask_ensemble is not None
        prediction = self.predictor.predict(
            upload.pixels, words, task=task, ensemble=with_sam, min_score=min_score
        )
        view = view_of(prediction, task, name=upload.name)
        return result_panel(view, upload, seconds=time.perf_counter() - start)


def build_page(
    predictor: Predictor, *, limits: Limits | None = None, examples: Sequence[Example] = (), note: str = ""
) -> Any:
    """The page as gradio.Blocks, with its queue.

    Args:
        predictor: what segments.
        limits: None = the defaults.
        examples: offered below the form; the first one fills it at the start.
        note: a line about the model, below the headline.
    Raises:
        CMPFError: Gradio is not installed.
    """
    gradio = import_gradio()
    limits = limits or Limits()
    segmenter = Segmenter(predictor, limits)
    page = gradio.Blocks(
        title="CMPF", analytics_enabled=False, delete_cache=(UPLOAD_SECONDS // 6, UPLOAD_SECONDS)
    )
    with page:
        gradio.HTML(_head(note))
        with gradio.Row():
            with gradio.Column(scale=2, min_width=300):
                inputs, button = _form(gradio, predictor, examples)
            with gradio.Column(scale=3, min_width=300):
                panel = gradio.HTML(WELCOME, elem_id="cmpf-panel")
        private = {"api_visibility": "private"}
        button.click(segmenter, inputs, panel, concurrency_limit=1, **private)
        inputs[0].upload(segmenter.check, inputs[0], panel, show_progress="hidden", queue=False, **private)
    page.queue(max_size=limits.queue, default_concurrency_limit=1)
    return page


def _head(note: str) -> str:
    line = f"<p class='cmpf-note'>{escape(note)}</p>" if note else ""
    return f"<header class='cmpf-head'><h1>CMPF</h1><p>{LEAD}</p>{line}</header>"


def _form(gradio: Any, predictor: Predictor, examples: Sequence[Example]) -> tuple[list[Any], Any]:
    """The input components, in the order of Segmenter's arguments, and the button."""
    first = examples[0] if examples else None
    image = upload_box(gradio, value=str(first.path) if first else None)
    words = gradio.Dropdown(
        _suggestions(predictor),
        value=list(first.words) if first else [],
        label="Words",
        info="Enter adds a word. Synonyms by comma: person, pedestrian",
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
        label="Add SAM's own masks for what was never trained",
        visible=predictor.mask_ensemble is not None,
        elem_id="cmpf-ensemble",
    )
    score = gradio.Slider(
        0,
        1,
        value=MIN_SCORE,
        step=0.05,
        label="Least score",
        info="Segments and instances that the model is less sure of are left out",
        elem_id="cmpf-score",
    )
    button = gradio.Button("Segment", variant="primary", size="lg", elem_id="cmpf-segment")
    if examples:
        _gallery(gradio, examples, [image, words, task])
    return [image, words, task, ensemble, score], button


def _gallery(gradio: Any, examples: Sequence[Example], outputs: list[Any]) -> None:
    """Thumbnails; a click fills image, words and task."""
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
    """Names of all known classes, those of the training vocabulary first."""
    return list(dict.fromkeys(name for known in predictor.known for name in known.names))
