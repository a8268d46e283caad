# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""ShapeWorld: a procedural open-vocabulary benchmark of scenes with things and stuff, drawn from a seed."""

from __future__ import annotations

from cmpf.shapeworld.categories import CATEGORIES, STUFF, THINGS, Category
from cmpf.shapeworld.scene import Scene, SceneSegment, generate_scene

__all__ = ["CATEGORIES", "STUFF", "THINGS", "Category", "Scene", "SceneSegment", "generate_scene"]
