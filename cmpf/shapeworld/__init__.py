# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""ShapeWorld: a procedural open-vocabulary benchmark of scenes with things and stuff, drawn from a seed.

What draws is fetched when first used, so that the list of datasets, which knows the categories, needs none of it.
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
