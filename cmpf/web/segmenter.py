# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What the page's buttons do: one image -> a panel; several -> a panel and a ZIP of results."""

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
from cmpf.labelling.writers.coco import Classes
from cmpf.predictor import Predictor
from cmpf.web.archive import Archive
from cmpf.web.guard import Room
from cmpf.web.inputs import MAX_IMAGES, Limits, class_words, read_upload
from cmpf.web.panel import TASKS, WELCOME, batch_panel, error_panel, result_panel, view_of

logger = logging.getLogger(__name__)
MIN_SCORE = Selection().min_score


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
        except Exception as error:
            return _trouble(error)

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
        words = _request(chips, task)
        upload = read_upload(path, self.limits)
        start = time.perf_counter()
        with_sam = bool(ensemble) and self.predictor.mask_ensemble is not None
        prediction = self.predictor.predict(
            upload.pixels, words, task=task, ensemble=with_sam, min_score=min_score
        )
        view = view_of(prediction, task, name=upload.name)
        return result_panel(view, upload, seconds=time.perf_counter() - start)


class BatchSegmenter:
    """What the button for several images does: uploads and words -> the HTML of a summary, and a ZIP.

    Args:
        room: where the ZIP lies until it makes place for newer files.
    """

    def __init__(self, predictor: Predictor, limits: Limits, room: Room) -> None:
        self.predictor = predictor
        self.limits = limits
        self.room = room

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
            paths: of the uploaded files. task: that the overlays show; instances are always found.
            chips, ensemble, min_score: see Segmenter.
        Returns:
            The panel, and the path of the ZIP, None where there is none.
        """
        try:
            with tempfile.TemporaryDirectory(prefix="cmpf-web-batch-") as folder:
                return self._segment(Path(folder), list(paths or ()), chips, task, ensemble, min_score)
        except Exception as error:
            return _trouble(error), None

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
            raise CMPFError("no images yet; drop some on the box for several images")
        if len(paths) > MAX_IMAGES:
            raise CMPFError(
                f"{len(paths)} images; this page takes up to {MAX_IMAGES} at once (MAX_IMAGES); take fewer, or use "
                "cmpf predict for a folder"
            )
        words = self.predictor.vocabulary(_request(chips, task))
        archive = Archive(folder, [Path(path).name for path in paths])
        start, with_sam = time.perf_counter(), bool(ensemble) and self.predictor.mask_ensemble is not None
        for number, path in enumerate(paths):
            try:
                upload = read_upload(path, self.limits)
            except ImageError as error:
                archive.refuse(number, str(error))
                continue
            prediction = self.predictor.predict(
                upload.pixels, words, task={task, INSTANCE}, ensemble=with_sam, min_score=min_score
            )
            archive.add(number, prediction, shrunk_from=upload.original_size)
        content = archive.finish(Classes(tuple(words.names), tuple(words.is_thing)))
        place = self.room.folder / secrets.token_hex(20) / "cmpf_results.zip"
        self.room.make(content.stat().st_size)
        place.parent.mkdir()
        shutil.move(content, place)
        return batch_panel(archive.lines, seconds=time.perf_counter() - start), str(place)


def _request(chips: Sequence[str] | None, task: str) -> list[str]:
    """The words.

    Raises:
        CMPFError: there are none or too many, or no such task.
    """
    if task not in TASKS:
        raise CMPFError(f"task {str(task)[:30]!r} is unknown; choose one of {', '.join(TASKS)}")
    return class_words(chips)


def _trouble(error: Exception) -> str:
    """The panel of an error; of a bug or a machine's trouble visitors get the kind, and the terminal the rest."""
    if isinstance(error, CMPFError):
        return error_panel(str(error))
    logger.error("a request of the web page failed", exc_info=error)
    return error_panel(
        f"The server had trouble ({type(error).__name__}); the terminal of cmpf serve says more."
    )
