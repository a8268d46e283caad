# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Predictor: images and words in, predictions out. The class that library users, demo and command line call."""

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
from cmpf.inference.settings import Options, Prepared, Selection, SelectionOptions, Tiling, checked_tasks
from cmpf.types import Sample
from cmpf.weights.saving import Metrics, Saver

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cmpf.config import Config
    from cmpf.formats.addresses import UrlPolicy
    from cmpf.model import CMPF

MIN_ISLAND_SHARE = 0.1  # where the configuration has none: the published arithmetic spoils boxes


class Predictor:
    """Segments images into the classes that each call names. Safe to call from several threads.

    Args:
        model: the network. Results are those of evaluation mode; its own mode is not changed.
        short_side, max_side: images are resized so that their shorter side has `short_side` pixels, or less where
            the longer one would exceed `max_side`.
        mask_ensemble: what `ensemble=True` means; None = the model has no SAM for it.
        known: vocabularies that tell things from stuff, beside the model's training vocabulary.
        saver: what save_pretrained calls; None = this predictor cannot be saved.
        cfg: the configuration that all this was built from; None = built by hand.
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
        """Segments one image or many.

        Args:
            images: a path, an http(s) address (only with allow_urls), a PIL image, an (H, W, 3) uint8 RGB or (H, W)
                array, or a list of these. EXIF orientation is applied; gray, RGBA, palette, 16-bit and CMYK images
                are converted. A folder stands for the list of its images, by name.
            vocabulary: classes to look for: a list of "name" or "name, synonym, synonym", the same in one string
                separated by ";", a vocabulary file, a dataset's name or YAML file, or a Vocabulary.
            task: "panoptic", "semantic", "instance", several of these, or "all" [default] of them, in one pass.
            ensemble: add SAM's own masks for unseen classes (OpenSeg Ensemble in semantic results, candidates in
                panoptic and instance results); None = as the model's config says.
            things, stuff: class names which are (not) counted one by one. Without them, words of the training
                vocabulary and of known datasets keep their kind and all others are things.
            batch_size: images per forward pass [1].
            allow_urls: whether addresses may be downloaded, "private" = those of this network, too [False].
            max_pixels: larger images are refused before they are decoded [89 million].
            tile, overlap: segment tiles of this side in pixels, which overlap by this share, 0..0.5, and join what is
                found in them, for large images of small objects [no tiles; 0.25].
            min_score: instances and panoptic segments of a lower score are left out [0.3].
            max_instances: at most so many of an image [as the model's config says].
            nms: of instances with a larger mask IoU the better one stays; 1 = all stay [0.7].
            multi_label: one mask may be an instance of several classes, as COCO's protocol has it [False].
            background: pixels without a class of min_semantic_score [0.3] are 65535 in semantic results [False].
        Returns:
            A Prediction for one image, a list for a list or a folder, in its order.
        Raises:
            ImageError, VocabularyError, CMPFError: each names the value, what is allowed and the fix.
        """
        single = isinstance(images, SINGLE) and not is_folder(images)
        found = list(self.stream(images, vocabulary, **options))
        return found[0] if single else found

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
        """Predictions one by one, so that thousands of images or the frames of a video fit into memory.

        Args:
            images: one image, path or folder, or any iterable of these; it is read no further than the current batch.
            vocabulary, ...: see predict. They are checked at once, each image when it is read.
        """
        classes = self.vocabulary(vocabulary, things=things, stuff=stuff)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise CMPFError(f"batch_size must be at least 1, got {batch_size!r}")
        settings = self.settings(
            task, ensemble, tile=tile, overlap=overlap, batch_size=batch_size, **selection
        )
        return self._stream(_named(images), classes, settings, batch_size, allow_urls, max_pixels)

    def vocabulary(
        self, words: Words, *, things: Iterable[str] | None = None, stuff: Iterable[str] | None = None
    ) -> Vocabulary:
        """The classes that `words` stand for; see predict."""
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
        """Writes config.yaml, model_final.safetensors and README.md, a model card: a folder for cmpf.load or the Hub.

        The frozen encoders are named in it, not copied.

        Args:
            title: headline of the card; "" = name of the folder.
            metrics: percent by dataset, task and metric, or the results.json of an evaluation.
            license: of the trained weights, as the Hub writes it: "apache-2.0"; "" = the card does not say.
            notes: what else users should know, as Markdown.
        Returns:
            The files.
        Raises:
            CMPFError: this predictor was built by hand, without a configuration.
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
        """What `segment` is asked for; arguments as predict has them."""
        tasks = checked_tasks(task)
        if ensemble and self.mask_ensemble is None:
            raise CMPFError(
                "ensemble=True, but this model was built without SAM's own masks: load it with "
                'cmpf.load(NAME, overrides=["TEST.ENSEMBLE.ENABLED", True]), on a command line with '
                "--opts TEST.ENSEMBLE.ENABLED True"
            )
        own = self.model.settings
        wanted = own.mask_ensemble is not None if ensemble is None else ensemble
        return replace(
            own,
            panoptic="panoptic" in tasks,
            semantic="semantic" in tasks,
            instance="instance" in tasks,
            semantic_output="labels",
            min_island_share=own.min_island_share or MIN_ISLAND_SHARE,
            held_pixels=HELD_PIXELS,
            mask_ensemble=self.mask_ensemble if wanted else None,
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
        """An image for `segment`. Threads may do this while the network is at work on others.

        Args:
            source, allow_urls, max_pixels: see predict. name: of an image that has neither path nor address.
        Raises:
            ImageError: it cannot be read.
        """
        image = read_image(source, allow_urls=allow_urls, max_pixels=max_pixels)
        sample, path = self._sample(image), str(source) if isinstance(source, str | Path) else ""
        if path and Path(path).expanduser().is_file():
            sample["file_name"] = path  # what a cache of SAM's masks looks for
        return Prepared(image, sample, path or name)

    def _sample(self, image: NDArray[np.uint8]) -> Sample:
        resized = resize_shortest_edge(image, short_side=self.short_side, max_side=self.max_side)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        if self.model.device.type == "cuda":
            tensor = tensor.pin_memory()  # travels while the device computes
        return {"image": tensor, "height": image.shape[0], "width": image.shape[1]}

    def segment(
        self, batch: Sequence[Prepared], words: Vocabulary, settings: InferenceSettings
    ) -> list[Prediction]:
        """One pass of the network over prepared images, and what was found in each."""
        infer = partial(self.model.infer, vocabulary=words)
        with torch.inference_mode():
            if settings.tiling is None:
                results = infer([item.sample for item in batch], settings=settings)
            else:
                # Imported here: most predictions need no tiles.
                from cmpf.inference.tiles import segment_tiles

                results = [segment_tiles(infer, item.image, self._sample, settings) for item in batch]
        selection = settings.selection if settings.tiling is None else None  # else it was made in each tile
        made = partial(prediction_of, names=words.names, selection=selection)
        found = zip(results, batch, strict=True)
        return [made(result, image=item.image, source=item.name) for result, item in found]

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


def _named(images: ImageSource | Iterable[ImageSource]) -> Iterator[tuple[str, ImageSource]]:
    """Every image of one or many with its name, "image_3" for the fourth without one; folders become their images."""
    sources = [images] if isinstance(images, SINGLE) else images
    if isinstance(sources, Iterable):
        return _each(sources)
    kind = type(images).__name__
    raise ImageError(
        f"cannot read images from {kind}; give a path, a PIL image, a uint8 array (H, W, 3), or a list of these"
    )


def _each(images: Iterable[ImageSource]) -> Iterator[tuple[str, ImageSource]]:
    for index, source in enumerate(images):
        if isinstance(source, str | Path) and is_folder(source):
            from cmpf.common.files import folder_images

            yield from ((str(path), path) for path in folder_images(Path(source).expanduser()))
        else:
            yield str(source) if isinstance(source, str | Path) else f"image_{index}", source
