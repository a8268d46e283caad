# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Predictor: pictures and words in, predictions out. The class that library users, demo and command line call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cmpf.data.images import read_image, resize_shortest_edge
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import CMPFError
from cmpf.inference import InferenceSettings, MaskEnsembleSettings
from cmpf.prediction import Instances, Prediction, Segment
from cmpf.types import InstanceResult, ModelResult, Sample, SegmentInfo

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cmpf.model import CMPF

TASKS = ("all", "panoptic", "semantic", "instance")
ImageSource: TypeAlias = "str | Path | Image.Image | NDArray[Any]"
Words: TypeAlias = "str | Path | Vocabulary | Sequence[str]"


class Options(TypedDict, total=False):
    """Keyword arguments of Predictor.predict."""

    task: str
    ensemble: bool | None
    things: Iterable[str] | None
    stuff: Iterable[str] | None
    batch_size: int
    allow_urls: bool


class Predictor:
    """Segments pictures into the classes that each call names. Safe to call from several threads.

    Args:
        model: the network; put into evaluation mode here.
        short_side, max_side: pictures are resized so that their shorter side has `short_side` pixels, or less where
            the longer one would exceed `max_side`.
        mask_ensemble: what `ensemble=True` means; None = the model has no SAM for it.
        known: vocabularies that tell things from stuff, beside the model's training vocabulary.
    """

    def __init__(
        self,
        *,
        model: CMPF,
        short_side: int,
        max_side: int,
        mask_ensemble: MaskEnsembleSettings | None,
        known: Sequence[Vocabulary] = (),
    ) -> None:
        self.model = model.eval()
        self.short_side = short_side
        self.max_side = max_side
        self.mask_ensemble = mask_ensemble
        self.known = (model.train_vocabulary, *known)

    @overload  # to the type checker, a path is also a sequence of strings
    def predict(  # type: ignore[overload-overlap]
        self, images: ImageSource, vocabulary: Words, **options: Unpack[Options]
    ) -> Prediction: ...

    @overload
    def predict(
        self, images: Sequence[ImageSource], vocabulary: Words, **options: Unpack[Options]
    ) -> list[Prediction]: ...

    def predict(
        self,
        images: ImageSource | Sequence[ImageSource],
        vocabulary: Words,
        *,
        task: str = "all",
        ensemble: bool | None = None,
        things: Iterable[str] | None = None,
        stuff: Iterable[str] | None = None,
        batch_size: int = 1,
        allow_urls: bool = False,
    ) -> Prediction | list[Prediction]:
        """Segments one picture or a list of them.

        Args:
            images: a path, an http(s) address (only with allow_urls), a PIL image, an (H, W, 3) uint8 RGB or (H, W)
                array, or a list of these. EXIF orientation is applied; grey, RGBA, palette, 16-bit and CMYK pictures
                are converted.
            vocabulary: classes to look for: a list of "name" or "name, synonym, synonym", the same in one string
                separated by ";", the path of a vocabulary file, or a Vocabulary.
            task: "panoptic", "semantic", "instance", or "all" of them in one pass.
            ensemble: add SAM's own masks (OpenSeg Ensemble, semantic results only); None = as the model's config says.
            things, stuff: class names which are (not) counted one by one. Without them, words of the training
                vocabulary and of known datasets keep their kind and all others are things.
            batch_size: pictures per forward pass.
            allow_urls: whether addresses may be downloaded.
        Returns:
            A Prediction for one picture, a list for a list, in its order.
        Raises:
            ImageError, VocabularyError, CMPFError: each names the value, what is allowed and the cure.
        """
        classes = self.vocabulary(vocabulary, things=things, stuff=stuff)
        settings = self._settings(task, ensemble)
        if batch_size < 1:
            raise CMPFError(f"batch_size must be at least 1, got {batch_size}")
        if isinstance(images, str | Path | Image.Image | np.ndarray):
            return self._predict_batch([images], classes, settings, allow_urls)[0]
        found: list[Prediction] = []
        for start in range(0, len(images), batch_size):
            found += self._predict_batch(images[start : start + batch_size], classes, settings, allow_urls)
        return found

    def vocabulary(
        self, words: Words, *, things: Iterable[str] | None = None, stuff: Iterable[str] | None = None
    ) -> Vocabulary:
        """The classes that `words` stand for; see predict."""
        if isinstance(words, Vocabulary):
            return words
        if isinstance(words, Path) or (isinstance(words, str) and Path(words).suffix == ".txt"):
            return Vocabulary.from_file(words)
        if isinstance(words, str):
            words = [word for word in words.split(";") if word.strip()]
        return Vocabulary.from_words(words, things=things, stuff=stuff, known=self.known)

    def _settings(self, task: str, ensemble: bool | None) -> InferenceSettings:
        if task not in TASKS:
            raise CMPFError(f"task {task!r} is unknown; choose one of {', '.join(TASKS)}")
        if ensemble and self.mask_ensemble is None:
            raise CMPFError(
                "ensemble=True, but this model was built without SAM proposals; set TEST.ENSEMBLE.ENABLED True"
            )
        own = self.model.settings
        on = own.mask_ensemble if ensemble is None else (self.mask_ensemble if ensemble else None)
        return replace(
            own,
            panoptic=task in ("all", "panoptic"),
            semantic=task in ("all", "semantic"),
            instance=task in ("all", "instance"),
            semantic_output="labels",
            mask_ensemble=on,
            proposals=False,
        )

    def _predict_batch(
        self,
        sources: Sequence[ImageSource],
        classes: Vocabulary,
        settings: InferenceSettings,
        allow_urls: bool,
    ) -> list[Prediction]:
        pictures = [read_image(source, allow_urls=allow_urls) for source in sources]
        batch = [self._sample(picture) for picture in pictures]
        with torch.inference_mode():
            results = self.model(batch, vocabulary=classes, settings=settings)
        return [
            _prediction(result, picture, _name(source, index), classes)
            for index, (result, picture, source) in enumerate(zip(results, pictures, sources, strict=True))
        ]

    def _sample(self, picture: NDArray[np.uint8]) -> Sample:
        resized = resize_shortest_edge(picture, short_side=self.short_side, max_side=self.max_side)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        return {"image": tensor, "height": picture.shape[0], "width": picture.shape[1]}


def _name(source: ImageSource, index: int) -> str:
    return str(source) if isinstance(source, str | Path) else f"image_{index}"


def _prediction(
    result: ModelResult, picture: NDArray[np.uint8], source: str, classes: Vocabulary
) -> Prediction:
    panoptic = semantic = instances = None
    if "panoptic_seg" in result:
        ids, infos = result["panoptic_seg"]
        panoptic = _panoptic(ids.cpu().numpy().astype(np.int32), infos, classes.names)
    if "sem_seg" in result:
        semantic = result["sem_seg"].cpu().numpy().astype(np.uint16)
    if "instances" in result:
        instances = _instances(result["instances"])
    return Prediction(
        image=picture,
        names=classes.names,
        source=source,
        panoptic_result=panoptic,
        semantic_result=semantic,
        instances_result=instances,
    )


def _panoptic(
    ids: NDArray[np.int32], infos: Sequence[SegmentInfo], names: Sequence[str]
) -> tuple[NDArray[np.int32], tuple[Segment, ...]]:
    segments = []
    for info in infos:
        rows, columns = np.nonzero(ids == info["id"])
        x0, y0 = int(columns.min()), int(rows.min())
        segments.append(
            Segment(
                id=info["id"],
                category=names[info["category_id"]],
                category_id=info["category_id"],
                isthing=info["isthing"],
                score=float(info["score"]),
                area=len(rows),
                bbox=(x0, y0, int(columns.max()) - x0 + 1, int(rows.max()) - y0 + 1),
            )
        )
    return ids, tuple(segments)


def _instances(result: InstanceResult) -> Instances:
    def array(values: Tensor, dtype: Any) -> NDArray[Any]:
        return values.cpu().numpy().astype(dtype)

    return Instances(
        masks=array(result.pred_masks, np.bool_),
        boxes=array(result.pred_boxes, np.float32),
        scores=array(result.scores, np.float32),
        labels=array(result.pred_classes, np.int64),
    )
