# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What was found in one image: from the model's result to drawings, files and the forms of other libraries."""

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

from cmpf.errors import CMPFError
from cmpf.formats.coco_json import write_json
from cmpf.formats.image import write_image
from cmpf.formats.label_map import write_labels, write_panoptic_ids
from cmpf.formats.masks import write_arrays
from cmpf.inference import conversions
from cmpf.inference.conversions import Instances, Segment
from cmpf.inference.mask_sequence import ThinnedMasks
from cmpf.inference.settings import Selection
from cmpf.types import UNLABELED, ModelResult, SegmentInfo

T = TypeVar("T")
DRAWN_PIXELS = 16_000_000  # more are not drawn: a mask for each label would take gigabytes
# Which result each task leaves; the order is that in which `plot` looks for one.
RESULTS = {"panoptic": "panoptic_result", "semantic": "semantic_result", "instance": "instances_result"}


@dataclass(frozen=True)
class Prediction:
    """What was found in one image.

    `panoptic`, `segments`, `semantic` and `instances` exist for the tasks that ran; asking for another one raises
    CMPFError.

    Attributes:
        image: (H, W, 3) uint8 RGB, EXIF orientation applied.
        names: name of each class index.
        source: path or address of the image, "image_3" for the fourth of a list without names.
        panoptic_result: ids and segments, or None.
        semantic_result: class indices, or None.
        instances_result: or None.
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
        return self._ran(self.panoptic_result, "panoptic")[0]

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Segments of `panoptic`, in the order of their ids."""
        return self._ran(self.panoptic_result, "panoptic")[1]

    @property
    def semantic(self) -> NDArray[np.uint16]:
        """(H, W) uint16 class index of every pixel; 65535 where none is, with background=True."""
        return self._ran(self.semantic_result, "semantic")

    @property
    def instances(self) -> Instances:
        """Instances of thing classes."""
        return self._ran(self.instances_result, "instance")

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that ran."""
        return tuple(task for task, name in RESULTS.items() if getattr(self, name) is not None)

    @property
    def stem(self) -> str:
        """Name of the image without folder and ending; what `save` names files after."""
        address = "://" in self.source
        path = PurePosixPath(unquote(urlsplit(self.source).path)) if address else Path(self.source)
        return path.stem or "image"

    def summary(self) -> dict[str, int]:
        """Name -> how often the class was found: segments if panoptic ran, else instances, else 1 for each class."""
        if self.panoptic_result is not None:
            found = [segment.category for segment in self.segments]
        elif self.instances_result is not None:
            found = [self.names[int(label)] for label in self.instances.labels]
        else:
            labels = np.unique(self.semantic)
            found = [self.names[int(label)] for label in labels if label != UNLABELED]
        return dict(Counter(found))

    def above(self, threshold: float) -> Prediction:
        """Without panoptic segments (they become void) and instances of a lower score; `semantic` stays."""
        panoptic, found = self.panoptic_result, self.instances_result
        if panoptic is not None:
            kept = tuple(segment for segment in panoptic[1] if segment.score >= threshold)
            panoptic = (_only(panoptic[0], [segment.id for segment in kept]), kept)
        return replace(
            self,
            panoptic_result=panoptic,
            instances_result=None if found is None else found.above(threshold),
        )

    def plot(self, task: str | None = None, *, opacity: float = 0.45) -> Image.Image:
        """The image with its segments drawn over it; an image of more than 16 megapixels is drawn smaller.

        Args:
            task: "panoptic", "semantic" or "instance"; None = the first of them that ran.
            opacity: 0 (image only) .. 1 (colors only).
        """
        from cmpf.visualization import draw_instances, draw_panoptic, draw_semantic
        from cmpf.visualization.canvas import reduced

        task = task or self.tasks[0]
        height, width = self.image.shape[:2]
        step = math.ceil(math.sqrt(height * width / DRAWN_PIXELS))
        image = self.image if step == 1 else reduced(self.image, step)
        if task == "panoptic":
            ids = self.panoptic[::step, ::step]
            there = {s.id for s in self.segments} if step == 1 else set(np.unique(ids).tolist())
            segments: list[SegmentInfo] = [
                {"id": s.id, "category_id": s.category_id, "isthing": s.isthing, "score": s.score}
                for s in self.segments
                if s.id in there
            ]
            return draw_panoptic(image, ids, segments, names=self.names, opacity=opacity)
        if task == "semantic":
            return draw_semantic(image, self.semantic[::step, ::step], names=self.names, opacity=opacity)
        if task == "instance":
            found = self.instances
            return draw_instances(
                image,
                found.masks if step == 1 else ThinnedMasks(found.masks, step),
                labels=found.labels,
                scores=found.scores,
                names=self.names,
                opacity=opacity,
                min_score=0,  # all that were selected, with the IoU that was allowed
                max_overlap=1,
            )
        raise CMPFError(f'task "{task}" is unknown; choose one of {", ".join(self.tasks)}')

    def save(
        self, folder: str | Path, formats: Sequence[str] = ("overlay",), *, name: str | None = None
    ) -> list[Path]:
        """Writes files into a folder, which is made if missing, and returns their paths.

        Args:
            formats: any of "overlay" (PNG image), "panoptic" (COCO panoptic PNG + JSON), "coco" (COCO results JSON
                of the instances), "semantic" (16-bit PNG of class indices), "instances" (NPZ of masks, boxes, scores,
                labels, sources and class names).
            name: what the names of the files begin with; None = the image's own name.
        Raises:
            CMPFError: a format is unknown, its task did not run, or a file would replace the image itself.
        """
        chosen, folder, name = _checked(formats), Path(folder), name or self.stem
        if "overlay" in chosen and (folder / f"{name}.png").absolute() == Path(self.source).absolute():
            raise CMPFError(
                f"{self.source}: the overlay would replace the image itself; save into another folder"
            )
        for task, needed in (
            ("panoptic", "panoptic"),
            ("semantic", "semantic"),
            ("instance", "coco instances"),
        ):
            if set(needed.split()) & set(chosen):
                self._ran(getattr(self, RESULTS[task]), task)
        return [path for format_ in chosen for path in WRITERS[format_](self, folder, name)]

    def to_coco(self) -> list[dict[str, Any]]:
        """Instances as COCO results: image_id (the file's stem), category_id, RLE, bbox xywh, score, source."""
        return conversions.coco_results(self.instances, self.stem)

    def to_hf(self) -> dict[str, Any]:
        """The panoptic result as `post_process_panoptic_segmentation` of Hugging Face's transformers returns it."""
        return conversions.hugging_face_panoptic(self.panoptic, self.segments)

    def to_supervision(self) -> Any:
        """Instances as `supervision.Detections`; needs `pip install supervision`."""
        return conversions.supervision_detections(self.instances, self.names)

    def _ran(self, value: T | None, task: str) -> T:
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
    """The prediction of one image; `sem_seg` must be labels, not scores.

    Args:
        image, source, names: see Prediction.
        selection: which of the instances stay; None = all.
    """
    panoptic = semantic = instances = None
    if "panoptic_seg" in result:
        ids = result["panoptic_seg"][0].cpu().numpy().astype(np.int32, copy=False)
        panoptic = ids, conversions.segments_of(ids, result["panoptic_seg"][1], names)
    if "sem_seg" in result:
        semantic = result["sem_seg"].cpu().numpy().astype(np.uint16)
    if "instances" in result:
        instances = conversions.instances_of(result["instances"])
        instances = instances if selection is None else selection.of_instances(instances)
    return Prediction(
        image=image,
        names=names,
        source=source,
        panoptic_result=panoptic,
        semantic_result=semantic,
        instances_result=instances,
    )


def _only(ids: NDArray[np.int32], kept: Sequence[int]) -> NDArray[np.int32]:
    """Segment ids (H, W) with those that are not kept as void; row by row, for an index takes more room than an id."""
    found = np.zeros(1 + max([int(ids.max(initial=0)), *kept]), dtype=np.int32)
    found[list(kept)] = kept
    only = np.empty_like(ids)
    for row, own in zip(only, ids, strict=True):
        row[:] = found[own]
    return only


def _write_overlay(prediction: Prediction, folder: Path, stem: str) -> list[Path]:
    """NAME.png, the image with what was found drawn over it."""
    return [write_image(folder / f"{stem}.png", prediction.plot())]


def _write_panoptic(prediction: Prediction, folder: Path, stem: str) -> list[Path]:
    """NAME_panoptic.png and NAME_panoptic.json as COCO has them."""
    png, table = folder / f"{stem}_panoptic.png", folder / f"{stem}_panoptic.json"
    write_panoptic_ids(png, prediction.panoptic)
    return [png, write_json(table, conversions.coco_panoptic(prediction.segments, stem, png.name))]


def _write_coco(prediction: Prediction, folder: Path, stem: str) -> list[Path]:
    """NAME_instances.json, COCO results."""
    return [write_json(folder / f"{stem}_instances.json", prediction.to_coco())]


def _write_instances(prediction: Prediction, folder: Path, stem: str) -> list[Path]:
    """NAME_instances.npz for numpy: masks, boxes, scores, labels, sources, and names of all classes."""
    path, found = folder / f"{stem}_instances.npz", prediction.instances
    write_arrays(
        path,
        masks=found.masks,
        boxes=found.boxes,
        scores=found.scores,
        labels=found.labels,
        sources=found.sources,
        names=np.array(prediction.names, dtype=str),  # text, not objects: read without pickle
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


def _checked(formats: object) -> tuple[str, ...]:
    """The formats, each once.

    Raises:
        CMPFError: one is unknown, or a string stands in place of the list.
    """
    names = formats if isinstance(formats, list | tuple) else (formats,)
    for name in names:
        if name not in FORMATS:
            raise CMPFError(f"format {name!r} is unknown; choose from {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(names))
