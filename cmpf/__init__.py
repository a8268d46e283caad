# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CMPF: open-vocabulary segmentation with frozen CLIP and SAM (Cross-Model Prior Fusion).

    import cmpf
    seg = cmpf.load("cmpf_tiny")
    seg.predict("street.jpg", ["car", "person, pedestrian", "road", "sky"]).plot().save("street.png")

Importing this package has no side effects and does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cmpf.predictor import Predictor

__version__ = "0.2.0"  # setup.py reads it from here
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
        model: a name in the model zoo ("cmpf_tiny"), the path of a config file, a folder with config.yaml and weights,
            or "USER/REPOSITORY[@REVISION]" on the Hugging Face Hub.
        device: "cpu", "cuda", "cuda:1", ...; None = a CUDA device if available, else the CPU.
        weights: path of trained weights, in place of those of the model.
        overrides: keys and values in turn, ["TEST.ENSEMBLE.ENABLED", True, "INPUT.MIN_SIZE_TEST", 640]; they take
            precedence over the model's configuration.
        plugins: modules or .py files that register custom components, in addition to those in the model's
            configuration. Plugins of a Hub repository must be listed here; otherwise their code is not imported.
        allow_unused_weights: whether the file may contain weights that the model does not have; they are ignored.
    Raises:
        ModelNameError: the name is unknown; lists the known ones.
        ConfigError: the configuration or an override is wrong.
        WeightsError: the weights are missing, damaged, or of another model.
        PluginError: a plugin cannot be imported, or is not listed in `plugins`.
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
    """Decorator that registers a custom component, which the configuration selects by name; see docs/plugins.md.

    Args:
        slot: kind of component: "query_injector", "criterion", "evaluator", ...
        name: its name in the configuration.
    Raises:
        PluginError: the slot is unknown (lists the known ones), or the name is already registered.
    """
    from cmpf.registry import register as add

    return add(slot, name)
