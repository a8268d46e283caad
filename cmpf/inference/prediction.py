# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Prediction: the results of one image, with plotting, saving and conversion to other libraries' formats."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cmpf.common.files import file_prefix
from cmpf.errors import CMPFError
from cmpf.formats.coco_json import write_json
from cmpf.formats.image import write_image
from cmpf.formats.label_map import write_labels, write_panoptic_ids
from cmpf.formats.masks import write_arrays
from cmpf.inference import conversions
from cmpf.inference.conversions import Instances, Segment
from cmpf.inference.mask_sequence import SubsampledMasks
from cmpf.inference.settings import Selection
from cmpf.types import UNLABELED, ModelResult, SegmentInfo

T = TypeVar("T")
# Larger images are plotted at a reduced size: a mask per label would take gigabytes.
MAX_PLOT_PIXELS = 16_000_000
# Task -> attribute of Prediction with its result, in the order in which `plot` picks a task.
RESULT_FIELDS = {"panoptic": "panoptic_result", "semantic": "semantic_result", "instance": "instances_result"}


@dataclass(frozen=True)
class Prediction:
    """Results of one image.

    `panoptic`, `segments`, `semantic` and `instances` raise CMPFError if their task did not run.

    Attributes:
        image: (H, W, 3) uint8 RGB, EXIF orientation applied.
        names: class name of each class index.
        source: path or URL of the image, or "image_3" for the fourth image of a list.
        panoptic_result: `panoptic` and `segments`; None if the task did not run.
        semantic_result: `semantic`; None if the task did not run.
        instances_result: `instances`; None if the task did not run.
    """

    image: NDArray[np.uint8]
    names: tuple[str, ...]
    source: str
    panoptic_result: tuple[NDArray[np.int32], tuple[Segment, ...]] | None
    semantic_result: NDArray[np.uint16] | None
    instances_result: Instances | None

    @property
    def panoptic(self) -> NDArray[np.int32]:
        """(H, W) int32 segment ids, 0 = void."""
        return self._require(self.panoptic_result, "panoptic")[0]

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Segments of `panoptic`, ordered by id."""
        return self._require(self.panoptic_result, "panoptic")[1]

    @property
    def semantic(self) -> NDArray[np.uint16]:
        """(H, W) uint16 class index of every pixel; with background=True, 65535 = unlabeled."""
        return self._require(self.semantic_result, "semantic")

    @property
    def instances(self) -> Instances:
        """Instances of thing classes."""
        return self._require(self.instances_result, "instance")

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that ran."""
        return tuple(task for task, name in RESULT_FIELDS.items() if getattr(self, name) is not None)

    @property
    def stem(self) -> str:
        """Image name without folder and extension; the default prefix of saved files."""
        is_url = "://" in self.source
        path = PurePosixPath(unquote(urlsplit(self.source).path)) if is_url else Path(self.source)
        return path.stem or "image"

    def summary(self) -> dict[str, int]:
        """Class name -> number of segments if panoptic ran, else of instances, else 1 for each class."""
        if self.panoptic_result is not None:
            names = [segment.category for segment in self.segments]
        elif self.instances_result is not None:
            names = [self.names[int(label)] for label in self.instances.labels]
        else:
            labels = np.unique(self.semantic)
            names = [self.names[int(label)] for label in labels if label != UNLABELED]
        return dict(Counter(names))

    def above(self, threshold: float) -> Prediction:
        """Drops instances and panoptic segments (pixels become void) with a lower score; `semantic` is unchanged."""
        panoptic, instances = self.panoptic_result, self.instances_result
        if panoptic is not None:
            kept = tuple(segment for segment in panoptic[1] if segment.score >= threshold)
            panoptic = (_keep_ids(panoptic[0], [segment.id for segment in kept]), kept)
        return replace(
            self,
            panoptic_result=panoptic,
            instances_result=None if instances is None else instances.above(threshold),
        )

    def plot(self, task: str | None = None, *, opacity: float = 0.45) -> Image.Image:
        """Draws the segments on the image; images of more than 16 megapixels are reduced first.

        Args:
            task: "panoptic", "semantic" or "instance"; None = the first of these that ran.
            opacity: 0 (image only) .. 1 (colors only).
        """
        from cmpf.visualization import draw_instances, draw_panoptic, draw_semantic
        from cmpf.visualization.canvas import reduce_image

        task = task or self.tasks[0]
        height, width = self.image.shape[:2]
        step = math.ceil(math.sqrt(height * width / MAX_PLOT_PIXELS))
        image = self.image if step == 1 else reduce_image(self.image, step)
        if task == "panoptic":
            ids = self.panoptic[::step, ::step]
            visible = {s.id for s in self.segments} if step == 1 else set(np.unique(ids).tolist())
            segments: list[SegmentInfo] = [
                {"id": s.id, "category_id": s.category_id, "isthing": s.isthing, "score": s.score}
                for s in self.segments
                if s.id in visible
            ]
            return draw_panoptic(image, ids, segments, names=self.names, opacity=opacity)
        if task == "semantic":
            return draw_semantic(image, self.semantic[::step, ::step], names=self.names, opacity=opacity)
        if task == "instance":
            instances = self.instances
            return draw_instances(
                image,
                instances.masks if step == 1 else SubsampledMasks(instances.masks, step),
                labels=instances.labels,
                scores=instances.scores,
                names=self.names,
                opacity=opacity,
                min_score=0,  # no filter: the selection has already been applied
                max_overlap=1,
            )
        raise CMPFError(f'task "{task}" is unknown; choose one of {", ".join(self.tasks)}')

    def save(
        self, folder: str | Path, formats: Sequence[str] = ("overlay",), *, name: str | None = None
    ) -> list[Path]:
        """Writes result files into a folder, which is created if missing.

        Args:
            formats: any of "overlay" (PNG image), "panoptic" (COCO panoptic PNG + JSON), "coco" (COCO results JSON
                of the instances), "semantic" (16-bit PNG of class indices), "instances" (NPZ of masks, boxes, scores,
                labels, sources and class names).
            name: prefix of the file names; None = `stem`.
        Returns:
            Paths of the files.
        Raises:
            CMPFError: a format is unknown, its task did not run, or a file would replace the image itself.
        """
        formats, folder, name = _check_formats(formats), Path(folder), file_prefix(name or self.stem)
        if "overlay" in formats and (folder / f"{name}.png").absolute() == Path(self.source).absolute():
            raise CMPFError(
                f"{self.source}: the overlay would replace the image itself; save into another folder"
            )
        for format_ in formats:
            if task := TASK_OF_FORMAT.get(format_):
                self._require(getattr(self, RESULT_FIELDS[task]), task)
        return [path for format_ in formats for path in WRITERS[format_](self, folder, name)]

    def to_coco(self) -> list[dict[str, Any]]:
        """Instances as COCO results: image_id (`stem`), category_id, segmentation (RLE), bbox xywh, score, source."""
        return conversions.coco_results(self.instances, self.stem)

    def to_hf(self) -> dict[str, Any]:
        """The panoptic result in the format of Hugging Face transformers' `post_process_panoptic_segmentation`."""
        return conversions.hugging_face_panoptic(self.panoptic, self.segments)

    def to_supervision(self) -> Any:
        """Instances as `supervision.Detections`; needs `pip install supervision`."""
        return conversions.supervision_detections(self.instances, self.names)

    def _require(self, value: T | None, task: str) -> T:
        if value is None:
            raise CMPFError(
                f'this prediction holds {", ".join(self.tasks)} but not {task}: call predict with task="{task}"'
            )
        return value


def prediction_of(
    result: ModelResult,
    *,
    image: NDArray[np.uint8],
    source: str,
    names: tuple[str, ...],
    selection: Selection | None = None,
) -> Prediction:
    """Converts a model's result to a Prediction; `sem_seg` must be labels, not scores.

    Args:
        image, source, names: see Prediction.
        selection: filter of the instances; None = all are kept.
    """
    panoptic = semantic = instances = None
    if "panoptic_seg" in result:
        ids = result["panoptic_seg"][0].cpu().numpy().astype(np.int32, copy=False)
        panoptic = ids, conversions.segments_of(ids, result["panoptic_seg"][1], names)
    if "sem_seg" in result:
        semantic = result["sem_seg"].cpu().numpy().astype(np.uint16)
    if "instances" in result:
        instances = conversions.instances_of(result["instances"])
        instances = instances if selection is None else selection.filter_instances(instances)
    return Prediction(
        image=image,
        names=names,
        source=source,
        panoptic_result=panoptic,
        semantic_result=semantic,
        instances_result=instances,
    )


def _keep_ids(ids: NDArray[np.int32], kept: Sequence[int]) -> NDArray[np.int32]:
    """Sets all other segment ids (H, W) to void; row by row, because NumPy converts an index to 64 bits."""
    lookup = np.zeros(1 + max([int(ids.max(initial=0)), *kept]), dtype=np.int32)
    lookup[list(kept)] = kept
    result = np.empty_like(ids)
    for result_row, row in zip(result, ids, strict=True):
        result_row[:] = lookup[row]
    return result


def _write_overlay(prediction: Prediction, folder: Path, stem: str) -> list[Path]:
    """NAME.png, the image with its segments drawn on it."""
    return [write_image(folder / f"{stem}.png", prediction.plot())]


def _write_panoptic(prediction: Prediction, folder: Path, stem: str) -> list[Path]:
    """NAME_panoptic.png and NAME_panoptic.json in COCO's format."""
    png, table = folder / f"{stem}_panoptic.png", folder / f"{stem}_panoptic.json"
    write_panoptic_ids(png, prediction.panoptic)
    return [png, write_json(table, conversions.coco_panoptic(prediction.segments, stem, png.name))]


def _write_coco(prediction: Prediction, folder: Path, stem: str) -> list[Path]:
    """NAME_instances.json, COCO results."""
    return [write_json(folder / f"{stem}_instances.json", prediction.to_coco())]


def _write_instances(prediction: Prediction, folder: Path, stem: str) -> list[Path]:
    """NAME_instances.npz: masks, boxes, scores, labels, sources, and the names of all classes."""
    path, instances = folder / f"{stem}_instances.npz", prediction.instances
    write_arrays(
        path,
        masks=instances.masks,
        boxes=instances.boxes,
        scores=instances.scores,
        labels=instances.labels,
        sources=instances.sources,
        names=np.array(prediction.names, dtype=str),  # not dtype object, which would need pickle
    )
    return [path]


def _write_semantic(prediction: Prediction, folder: Path, stem: str) -> list[Path]:
    """NAME_semantic.png, 16-bit class indices."""
    return [write_labels(folder / f"{stem}_semantic.png", prediction.semantic)]


WRITERS: dict[str, Callable[[Prediction, Path, str], list[Path]]] = {
    "overlay": _write_overlay,
    "panoptic": _write_panoptic,
    "coco": _write_coco,
    "semantic": _write_semantic,
    "instances": _write_instances,
}
FORMATS = tuple(WRITERS)
# The task that a format needs; "overlay" draws any.
TASK_OF_FORMAT = {"panoptic": "panoptic", "semantic": "semantic", "coco": "instance", "instances": "instance"}


def _check_formats(formats: object) -> tuple[str, ...]:
    """Returns the formats without duplicates.

    Raises:
        CMPFError: a format is unknown, or `formats` is a string instead of a list.
    """
    names = formats if isinstance(formats, list | tuple) else (formats,)
    for name in names:
        if name not in FORMATS:
            raise CMPFError(f"format {name!r} is unknown; choose from {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(names))
