# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The result of `predict`, and the files and formats it can be turned into."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from cmpf.errors import CMPFError
from cmpf.files import replacing
from cmpf.types import SegmentInfo
from cmpf.visualization import draw_instances, draw_panoptic, draw_semantic

T = TypeVar("T")
FORMATS = ("overlay", "panoptic", "coco", "semantic")


@dataclass(frozen=True)
class Segment:
    """One segment of the panoptic picture.

    id: value in `panoptic`; bbox: [x, y, width, height] in pixels (COCO's order); score: 0..1; area: pixels.
    """

    id: int
    category: str
    category_id: int
    isthing: bool
    score: float
    area: int
    bbox: tuple[int, int, int, int]


@dataclass(frozen=True)
class Instances:
    """Instances, best first: masks (N, H, W) bool, boxes (N, 4) xyxy in pixels, scores (N,), labels (N,) classes."""

    masks: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Prediction:
    """What was found in one picture.

    image: (H, W, 3) uint8 RGB, EXIF orientation applied; names: name of each class index.
    The other attributes (`panoptic`, `segments`, `semantic`, `instances`) exist for the tasks that ran; asking for
    another one raises CMPFError.
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
        """(H, W) uint16 class index of every pixel."""
        return self._ran(self.semantic_result, "semantic")

    @property
    def instances(self) -> Instances:
        """Instances of thing classes."""
        return self._ran(self.instances_result, "instance")

    def summary(self) -> dict[str, int]:
        """Name -> how often the class was found: segments if panoptic ran, else instances, else 1 a class."""
        if self.panoptic_result is not None:
            found = [segment.category for segment in self.segments]
        elif self.instances_result is not None:
            found = [self.names[int(label)] for label in self.instances.labels]
        else:
            found = [self.names[int(label)] for label in np.unique(self.semantic)]
        return dict(Counter(found))

    def plot(self, task: str | None = None, *, opacity: float = 0.55) -> Image.Image:
        """The picture with its segments drawn over it.

        Args:
            task: "panoptic", "semantic" or "instance"; None = the first of them that ran.
            opacity: 0 (picture only) .. 1 (colours only).
        """
        task = task or self._tasks()[0]
        if task == "panoptic":
            segments: list[SegmentInfo] = [
                {"id": s.id, "category_id": s.category_id, "isthing": s.isthing, "score": s.score}
                for s in self.segments
            ]
            return draw_panoptic(self.image, self.panoptic, segments, names=self.names, opacity=opacity)
        if task == "semantic":
            return draw_semantic(self.image, self.semantic, names=self.names, opacity=opacity)
        if task == "instance":
            found = self.instances
            return draw_instances(
                self.image,
                found.masks,
                labels=found.labels,
                scores=found.scores,
                names=self.names,
                opacity=opacity,
            )
        raise CMPFError(f'task "{task}" is unknown; choose one of {", ".join(self._tasks())}')

    def save(self, folder: str | Path, formats: Sequence[str] = ("overlay",)) -> list[Path]:
        """Writes files named after the picture into a folder and returns their paths.

        Args:
            formats: any of "overlay" (PNG picture), "panoptic" (COCO panoptic PNG + JSON), "coco" (COCO results JSON
                of the instances), "semantic" (16-bit PNG of class indices).
        """
        unknown = [name for name in formats if name not in FORMATS]
        if unknown:
            raise CMPFError(f"format {unknown[0]!r} is unknown; choose from {', '.join(FORMATS)}")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        stem = Path(self.source).stem or "image"
        written: list[Path] = []
        for name in formats:
            written += getattr(self, f"_save_{name}")(folder, stem)
        return written

    def to_coco(self) -> list[dict[str, Any]]:
        """Instances as COCO results: image_id (the file's stem), category_id, segmentation (RLE), bbox xywh, score."""
        results = []
        for mask, box, score, label in zip(*self._instance_rows(), strict=True):
            rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            x0, y0, x1, y1 = (float(v) for v in box)
            results.append(
                {
                    "image_id": Path(self.source).stem,
                    "category_id": int(label),
                    "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")},
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": float(score),
                }
            )
        return results

    def to_hf(self) -> dict[str, Any]:
        """The panoptic result in the form of Hugging Face's `post_process_panoptic_segmentation`."""
        info = [
            {"id": s.id, "label_id": s.category_id, "was_fused": not s.isthing, "score": s.score}
            for s in self.segments
        ]
        return {"segmentation": self.panoptic, "segments_info": info}

    def to_supervision(self) -> Any:
        """Instances as `supervision.Detections`; needs `pip install supervision`."""
        try:
            import supervision
        except ImportError as error:
            raise CMPFError(
                "to_supervision needs the package supervision: pip install supervision"
            ) from error
        masks, boxes, scores, labels = self._instance_rows()
        return supervision.Detections(
            xyxy=boxes,
            mask=masks,
            confidence=scores,
            class_id=labels,
            data={"class_name": np.array([self.names[int(label)] for label in labels])},
        )

    def _instance_rows(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        found = self.instances
        return found.masks, found.boxes, found.scores, found.labels

    def _tasks(self) -> list[str]:
        results = {
            "panoptic": self.panoptic_result,
            "semantic": self.semantic_result,
            "instance": self.instances_result,
        }
        return [task for task, value in results.items() if value is not None]

    def _ran(self, value: T | None, task: str) -> T:
        if value is None:
            raise CMPFError(
                f'this prediction holds {", ".join(self._tasks())} but not {task}: call predict with task="{task}"'
            )
        return value

    def _save_overlay(self, folder: Path, stem: str) -> list[Path]:
        path = folder / f"{stem}.png"
        picture = self.plot()
        with replacing(path) as temporary:
            picture.save(temporary)
        return [path]

    def _save_panoptic(self, folder: Path, stem: str) -> list[Path]:
        ids = self.panoptic.astype(np.uint32)
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        png, table = folder / f"{stem}_panoptic.png", folder / f"{stem}_panoptic.json"
        with replacing(png) as temporary:
            Image.fromarray(rgb).save(temporary)
        segments = [
            {"id": s.id, "category_id": s.category_id, "area": s.area, "bbox": list(s.bbox), "iscrowd": 0}
            for s in self.segments
        ]
        categories = {
            s.category_id: {"id": s.category_id, "name": s.category, "isthing": int(s.isthing)}
            for s in self.segments
        }
        content = {
            "annotations": [{"image_id": stem, "file_name": png.name, "segments_info": segments}],
            "categories": [categories[k] for k in sorted(categories)],
        }
        _write_json(table, content)
        return [png, table]

    def _save_coco(self, folder: Path, stem: str) -> list[Path]:
        path = folder / f"{stem}_instances.json"
        _write_json(path, self.to_coco())
        return [path]

    def _save_semantic(self, folder: Path, stem: str) -> list[Path]:
        path = folder / f"{stem}_semantic.png"
        with replacing(path) as temporary:
            Image.fromarray(self.semantic).save(temporary)
        return [path]


def _write_json(path: Path, content: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
