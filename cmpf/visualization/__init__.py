# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Draws predictions and ground truth on images (arrays to Pillow images), and training curves as SVG."""

from __future__ import annotations

from cmpf.visualization.chart import training_curve
from cmpf.visualization.overlay import draw_instances, draw_panoptic, draw_semantic
from cmpf.visualization.palette import class_color

__all__ = ["class_color", "draw_instances", "draw_panoptic", "draw_semantic", "training_curve"]
