# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""ShapeWorld: a procedural open-vocabulary segmentation benchmark with things and stuff, generated from a seed.

The generator is imported lazily, because the dataset catalog needs only the categories.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cmpf.shapeworld.categories import CATEGORIES, STUFF, THINGS, Category

if TYPE_CHECKING:
    from cmpf.shapeworld.scene import Scene, SceneSegment, generate_scene

__all__ = ["CATEGORIES", "STUFF", "THINGS", "Category", "Scene", "SceneSegment", "generate_scene"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cmpf.shapeworld import scene

    return getattr(scene, name)
