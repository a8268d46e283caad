# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Callbacks of the page's buttons: segment one image, or several into a ZIP of results."""

from __future__ import annotations

import logging
import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from cmpf.errors import CMPFError, ImageError
from cmpf.inference.settings import Selection
from cmpf.labelling.record import INSTANCE
from cmpf.predictor import Predictor
from cmpf.web.archive import Archive
from cmpf.web.guard import DiskQuota
from cmpf.web.inputs import MAX_IMAGES, Limits, parse_classes, read_upload
from cmpf.web.panel import TASKS, WELCOME, batch_panel, error_panel, make_view, result_panel

logger = logging.getLogger(__name__)
MIN_SCORE = Selection().min_score


class Segmenter:
    """Segments an uploaded image; returns the HTML of the result or of an error."""

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
            path: the uploaded file; None = no image yet.
            chips: see parse_classes.
            task: one of TASKS.
            ensemble: whether to use the mask ensemble, if the model has one.
            min_score: minimum score of segments and instances, in [0, 1].
        """
        try:
            return self._segment(path, chips, task, ensemble, min_score)
        except Exception as error:
            return _error_html(error)

    def check(self, path: str | None) -> str:
        """The HTML after an upload: an error if the image cannot be read, else the welcome text."""
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
            raise CMPFError("no image; upload one, or choose an example")
        classes = _checked_classes(chips, task)
        upload = read_upload(path, self.limits)
        start = time.perf_counter()
        use_ensemble = bool(ensemble) and self.predictor.mask_ensemble is not None
        prediction = self.predictor.predict(
            upload.pixels, classes, task=task, ensemble=use_ensemble, min_score=min_score
        )
        view = make_view(prediction, task, name=upload.name)
        return result_panel(view, upload, seconds=time.perf_counter() - start)


class BatchSegmenter:
    """Segments several uploaded images; returns the HTML of a summary, and a ZIP.

    Args:
        quota: for the ZIP.
    """

    def __init__(self, predictor: Predictor, limits: Limits, quota: DiskQuota) -> None:
        self.predictor = predictor
        self.limits = limits
        self.quota = quota

    def __call__(
        self,
        paths: Sequence[str] | None,
        chips: Sequence[str] | None,
        task: str,
        ensemble: bool = False,
        min_score: float = MIN_SCORE,
    ) -> tuple[str, str | None]:
        """
        Args:
            paths: the uploaded files.
            task: drawn in the overlays; instances.json is always written.
            chips, ensemble, min_score: see Segmenter.
        Returns:
            The HTML, and the path of the ZIP; None after an error.
        """
        try:
            with tempfile.TemporaryDirectory(prefix="cmpf-web-batch-") as folder:
                return self._segment(Path(folder), list(paths or ()), chips, task, ensemble, min_score)
        except Exception as error:
            return _error_html(error), None

    def _segment(
        self,
        folder: Path,
        paths: list[str],
        chips: Sequence[str] | None,
        task: str,
        ensemble: bool,
        min_score: float,
    ) -> tuple[str, str]:
        if not paths:
            raise CMPFError("no images; upload some under Multiple images")
        if len(paths) > MAX_IMAGES:
            raise CMPFError(
                f"{len(paths)} images; this page takes up to {MAX_IMAGES} at once (MAX_IMAGES); upload fewer, or use "
                "cmpf predict for a folder"
            )
        vocabulary = self.predictor.vocabulary(_checked_classes(chips, task))
        archive = Archive(folder, [Path(path).name for path in paths])
        start = time.perf_counter()
        use_ensemble = bool(ensemble) and self.predictor.mask_ensemble is not None
        for index, path in enumerate(paths):
            try:
                upload = read_upload(path, self.limits)
            except ImageError as error:
                archive.add_error(index, str(error))
                continue
            prediction = self.predictor.predict(
                upload.pixels, vocabulary, task={task, INSTANCE}, ensemble=use_ensemble, min_score=min_score
            )
            archive.add(index, prediction, original_size=upload.original_size)
        zip_file = archive.finish(vocabulary)
        target = self.quota.folder / secrets.token_hex(20) / "cmpf_results.zip"
        self.quota.free(zip_file.stat().st_size)
        target.parent.mkdir()
        shutil.move(zip_file, target)
        return batch_panel(archive.results, seconds=time.perf_counter() - start), str(target)


def _checked_classes(chips: Sequence[str] | None, task: str) -> list[str]:
    """The classes of a request.

    Raises:
        CMPFError: there are none or too many, or the task is unknown.
    """
    if task not in TASKS:
        raise CMPFError(f"task {str(task)[:30]!r} is unknown; choose one of {', '.join(TASKS)}")
    return parse_classes(chips)


def _error_html(error: Exception) -> str:
    """The HTML of an error. Unexpected exceptions are logged; visitors see only their type."""
    if isinstance(error, CMPFError):
        return error_panel(str(error))
    logger.error("a request of the web page failed", exc_info=error)
    return error_panel(f"Internal server error ({type(error).__name__}); see the terminal of cmpf serve.")
