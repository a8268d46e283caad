# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CMPF: open-vocabulary segmentation with frozen CLIP and SAM (Cross-Model Prior Fusion).

    import cmpf
    seg = cmpf.load("cmpf_tiny")
    seg.predict("street.jpg", ["car", "person, pedestrian", "road", "sky"]).plot().save("street.png")

Importing this package registers nothing, opens nothing and does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cmpf.predictor import Predictor

__version__ = "0.2.0"  # here alone; setup.py reads it
Part = TypeVar("Part", bound="Callable[..., Any]")


def load(
    model: str,
    *,
    device: str | None = None,
    weights: str | None = None,
    overrides: Sequence[Any] = (),
    plugins: Sequence[str] = (),
    allow_unused_weights: bool = False,
) -> Predictor:
    """Loads a model and returns its predictor.

    Args:
        model: a name of the zoo ("cmpf_tiny"), the path of a config, a folder with config.yaml and weights, or
            "USER/REPOSITORY[@REVISION]" of the Hugging Face Hub.
        device: "cpu", "cuda", "cuda:1", ...; None = a CUDA device if there is one, else the CPU.
        weights: path of trained weights that replace the model's own.
        overrides: changes to the model's configuration, a key and its value in turn:
            ["TEST.ENSEMBLE.ENABLED", True, "INPUT.MIN_SIZE_TEST", 640]. They override everything else.
        plugins: modules or .py files with parts of your own, beside those that the model's config names. Those that a
            repository of the Hub asks for must be named here: no code is imported unless you say so.
        allow_unused_weights: whether the file may hold weights that the model does not have; they are left out.
    Raises:
        ModelNameError: unknown name (lists the known ones). ConfigError, WeightsError, PluginError: see their messages.
    """
    from cmpf.factory import load_predictor

    return load_predictor(
        model,
        device=device,
        weights=weights,
        overrides=overrides,
        plugins=plugins,
        allow_unused_weights=allow_unused_weights,
    )


def register(slot: str, name: str) -> Callable[[Part], Part]:
    """A decorator that makes a part of your own selectable by name; see docs/plugins.md.

    Args:
        slot: what it is: "query_injector", "criterion", "evaluator", ...
        name: what selects it in the configuration.
    Raises:
        PluginError: no such slot (lists them), or the name is taken (names both places).
    """
    from cmpf.registry import register as add

    return add(slot, name)
