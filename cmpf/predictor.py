# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Predictor: open-vocabulary segmentation of images, used by the library, the demo and the command line."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import torch
from numpy.typing import NDArray

from cmpf.common.files import is_folder
from cmpf.data.vocabulary import Vocabulary
from cmpf.data.words import Words, read_words
from cmpf.errors import CMPFError, ImageError
from cmpf.formats.image import MAX_PIXELS, SINGLE, ImageSource, read_image, resize_shortest_edge
from cmpf.inference import InferenceSettings, MaskEnsembleSettings, Prediction, prediction_of
from cmpf.inference.mask_sequence import HELD_PIXELS
from cmpf.inference.settings import Options, Prepared, Selection, SelectionOptions, Tiling, parse_tasks
from cmpf.types import Sample
from cmpf.weights.saving import Metrics, Saver

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cmpf.config import Config
    from cmpf.formats.addresses import UrlPolicy
    from cmpf.model import CMPF

# Used if TEST.MIN_ISLAND_SHARE is 0, as in the published protocol: islands would enlarge the boxes of instances.
MIN_ISLAND_SHARE = 0.1


class Predictor:
    """Segments images into the classes that each call names. Thread-safe.

    Args:
        model: the network. It is run in evaluation mode; its own mode is not changed.
        short_side, max_side: images are resized so that their shorter side has `short_side` pixels, or fewer if the
            longer side would exceed `max_side`.
        mask_ensemble: settings of `ensemble=True`; None = the model was built without SAM's mask proposals.
        known: vocabularies that, like the model's training vocabulary, define which words are things and stuff.
        saver: implementation of save_pretrained; None = this predictor cannot be saved.
        cfg: the configuration that the predictor was built from; None = built without one.
    """

    def __init__(
        self,
        *,
        model: CMPF,
        short_side: int,
        max_side: int,
        mask_ensemble: MaskEnsembleSettings | None,
        known: Sequence[Vocabulary] = (),
        saver: Saver | None = None,
        cfg: Config | None = None,
    ) -> None:
        self.model = model
        self.short_side = short_side
        self.max_side = max_side
        self.mask_ensemble = mask_ensemble
        self.known = (model.train_vocabulary, *known)
        self.saver = saver
        self.cfg = cfg

    @overload  # to the type checker, a path is also a sequence of strings
    def predict(  # type: ignore[overload-overlap]
        self, images: ImageSource, vocabulary: Words, **options: Unpack[Options]
    ) -> Prediction: ...

    @overload
    def predict(
        self, images: Sequence[ImageSource], vocabulary: Words, **options: Unpack[Options]
    ) -> list[Prediction]: ...

    def predict(
        self, images: ImageSource | Sequence[ImageSource], vocabulary: Words, **options: Unpack[Options]
    ) -> Prediction | list[Prediction]:
        """Segments one or several images. Defaults are in brackets.

        Args:
            images: a path, an http(s) URL (only with allow_urls), a PIL image, an (H, W, 3) uint8 RGB or (H, W)
                array, or a list of these. EXIF orientation is applied; gray, RGBA, palette, 16-bit and CMYK images
                are converted. A folder stands for all its images, sorted by name.
            vocabulary: classes to segment: a list of "name" or "name, synonym, synonym", the same in one string
                separated by ";", a vocabulary file, a dataset's name or YAML file, or a Vocabulary.
            task: "panoptic", "semantic", "instance", several of these, or "all", in one forward pass ["all"].
            ensemble: use SAM's own masks for unseen classes (OpenSeg Ensemble in semantic results, candidates in
                panoptic and instance results); None = as in the model's config [None].
            things, stuff: names of thing and stuff classes. By default classes of the training vocabulary and of known
                datasets keep their kind, and all others are things.
            batch_size: images per forward pass [1].
            allow_urls: whether URLs may be downloaded; "private" = also those of the local network [False].
            max_pixels: larger images are rejected before they are decoded [89 million].
            tile, overlap: side in pixels and overlap, 0..0.5, of tiles that are segmented one by one and merged, for
                large images with small objects [no tiles; 0.25].
            min_score: instances and panoptic segments with a lower score are dropped [0.3].
            max_instances: maximum number of instances per image [as in the model's config].
            nms: mask IoU above which the lower-scoring instance is dropped; 1 = off [0.7].
            multi_label: one mask may yield instances of several classes, as in COCO's protocol [False].
            background: label pixels where no class reaches min_semantic_score [0.3] as 65535 in semantic results
                [False].
        Returns:
            A Prediction for a single image; for a list or a folder a list in the same order.
        Raises:
            ImageError, VocabularyError, CMPFError: the message names the value, what is allowed and the fix.
        """
        single = isinstance(images, SINGLE) and not is_folder(images)
        predictions = list(self.stream(images, vocabulary, **options))
        return predictions[0] if single else predictions

    def stream(
        self,
        images: ImageSource | Iterable[ImageSource],
        vocabulary: Words,
        *,
        task: str | Collection[str] = "all",
        ensemble: bool | None = None,
        things: Iterable[str] | None = None,
        stuff: Iterable[str] | None = None,
        batch_size: int = 1,
        allow_urls: UrlPolicy = False,
        max_pixels: int = MAX_PIXELS,
        tile: int | None = None,
        overlap: float = 0.25,
        **selection: Unpack[SelectionOptions],
    ) -> Iterator[Prediction]:
        """Yields predictions one by one, for many images or the frames of a video.

        Args:
            images: one image, path or folder, or any iterable of these, which is consumed batch by batch.
            vocabulary, ...: see predict. They are checked when `stream` is called; an image when it is read.
        """
        classes = self.vocabulary(vocabulary, things=things, stuff=stuff)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise CMPFError(f"batch_size must be at least 1, got {batch_size!r}")
        settings = self.settings(
            task, ensemble, tile=tile, overlap=overlap, batch_size=batch_size, **selection
        )
        return self._stream(_named_sources(images), classes, settings, batch_size, allow_urls, max_pixels)

    def vocabulary(
        self, words: Words, *, things: Iterable[str] | None = None, stuff: Iterable[str] | None = None
    ) -> Vocabulary:
        """Parses the vocabulary argument of predict."""
        return read_words(words, things=things, stuff=stuff, known=self.known)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        title: str = "",
        metrics: str | Path | Metrics | None = None,
        license: str = "",
        notes: str = "",
    ) -> list[Path]:
        """Writes config.yaml, model_final.safetensors and README.md (a model card) for cmpf.load or the Hub.

        Frozen encoders are referenced by name, not copied.

        Args:
            title: title of the model card; "" = name of the folder.
            metrics: percentages by dataset, task and metric, or the path of an evaluation's results.json.
            license: license of the trained weights by its Hub identifier, such as "apache-2.0"; "" = not stated.
            notes: additional Markdown for the model card.
        Returns:
            Paths of the files.
        Raises:
            CMPFError: this predictor was built without a configuration.
        """
        if self.saver is None:
            raise CMPFError(
                "this predictor has no configuration to save; make it with cmpf.load or cmpf.factory.build_predictor"
            )
        return self.saver(
            self.model, Path(folder), title=title, metrics=metrics, license=license, notes=notes
        )

    def settings(
        self,
        task: str | Collection[str] = "all",
        ensemble: bool | None = None,
        *,
        tile: int | None = None,
        overlap: float = 0.25,
        batch_size: int = 1,
        **selection: Unpack[SelectionOptions],
    ) -> InferenceSettings:
        """Settings for `segment`; see predict for the arguments."""
        tasks = parse_tasks(task)
        if ensemble and self.mask_ensemble is None:
            raise CMPFError(
                "ensemble=True, but this model was built without SAM's own masks: load it with "
                'cmpf.load(NAME, overrides=["TEST.ENSEMBLE.ENABLED", True]), on a command line with '
                "--opts TEST.ENSEMBLE.ENABLED True"
            )
        defaults = self.model.settings
        use_ensemble = defaults.mask_ensemble is not None if ensemble is None else ensemble
        return replace(
            defaults,
            panoptic="panoptic" in tasks,
            semantic="semantic" in tasks,
            instance="instance" in tasks,
            semantic_output="labels",
            min_island_share=defaults.min_island_share or MIN_ISLAND_SHARE,
            held_pixels=HELD_PIXELS,
            mask_ensemble=self.mask_ensemble if use_ensemble else None,
            proposals=False,
            selection=Selection(**selection),
            tiling=None if tile is None else Tiling(tile, overlap, batch_size),
        )

    def prepare(
        self,
        source: ImageSource,
        *,
        name: str = "image_0",
        allow_urls: UrlPolicy = False,
        max_pixels: int = MAX_PIXELS,
    ) -> Prepared:
        """Reads and resizes an image for `segment`; may run in other threads while the network is busy.

        Args:
            source, allow_urls, max_pixels: see predict.
            name: name of an image that is neither a path nor a URL.
        Raises:
            ImageError: the image cannot be read.
        """
        image = read_image(source, allow_urls=allow_urls, max_pixels=max_pixels)
        sample, path = self._sample(image), str(source) if isinstance(source, str | Path) else ""
        if path and Path(path).expanduser().is_file():
            sample["file_name"] = path  # read by ProposalCache
        return Prepared(image, sample, path or name)

    def _sample(self, image: NDArray[np.uint8]) -> Sample:
        resized = resize_shortest_edge(image, short_side=self.short_side, max_side=self.max_side)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        if self.model.device.type == "cuda":
            tensor = tensor.pin_memory()  # for an asynchronous copy to the device
        return {"image": tensor, "height": image.shape[0], "width": image.shape[1]}

    def segment(
        self, batch: Sequence[Prepared], words: Vocabulary, settings: InferenceSettings
    ) -> list[Prediction]:
        """Segments a batch of prepared images in one forward pass; with tiles, in one pass per batch of tiles."""
        infer = partial(self.model.infer, vocabulary=words)
        with torch.inference_mode():
            if settings.tiling is None:
                results = infer([item.sample for item in batch], settings=settings)
            else:
                # Imported here: most predictions need no tiles.
                from cmpf.inference.tiles import segment_tiles

                tiling = settings.tiling
                results = [segment_tiles(infer, item.image, self._sample, settings, tiling) for item in batch]
        selection = settings.selection if settings.tiling is None else None  # already applied to each tile
        return [
            prediction_of(result, image=item.image, source=item.name, names=words.names, selection=selection)
            for result, item in zip(results, batch, strict=True)
        ]

    def _stream(
        self,
        sources: Iterator[tuple[str, ImageSource]],
        classes: Vocabulary,
        settings: InferenceSettings,
        batch_size: int,
        allow_urls: UrlPolicy,
        max_pixels: int,
    ) -> Iterator[Prediction]:
        while chunk := list(islice(sources, batch_size)):
            prepare = partial(self.prepare, allow_urls=allow_urls, max_pixels=max_pixels)
            batch = [prepare(source, name=name) for name, source in chunk]
            yield from self.segment(batch, classes, settings)


def _named_sources(images: ImageSource | Iterable[ImageSource]) -> Iterator[tuple[str, ImageSource]]:
    """Yields (name, image); the name is the path or URL, else "image_3" for the fourth image. Folders are expanded."""
    sources = [images] if isinstance(images, SINGLE) else images
    if isinstance(sources, Iterable) and not isinstance(sources, bytes):
        return _expand_folders(sources)
    raise ImageError(
        f"cannot read images from {type(images).__name__}; give a path, a PIL image, a uint8 array (H, W, 3), "
        "or a list of these"
    )


def _expand_folders(images: Iterable[ImageSource]) -> Iterator[tuple[str, ImageSource]]:
    for index, source in enumerate(images):
        if isinstance(source, str | Path) and is_folder(source):
            from cmpf.common.files import folder_images

            yield from ((str(path), path) for path in folder_images(Path(source).expanduser()))
        else:
            yield str(source) if isinstance(source, str | Path) else f"image_{index}", source
