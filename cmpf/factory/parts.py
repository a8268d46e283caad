# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Registers CMPF's own parts by slot and name, and looks up the parts that a configuration names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from cmpf.config import Config
from cmpf.errors import ModelNameError
from cmpf.inference import geometric_ensemble, openseg_ensemble
from cmpf.losses import SetCriterion
from cmpf.modeling.injectors import FeatureInjector, QueryInjector
from cmpf.modeling.pixel_decoder import PixelDecoder
from cmpf.modeling.transformer_decoder import TransformerDecoder
from cmpf.registry import register, registered, resolve

Part = TypeVar("Part", bound=Callable[..., Any])


def part(
    slot: str, name: str, cfg: Config, *, like: Part, fallback: Callable[..., Any] | None = None
) -> Part:
    """The part that is registered under a name in a slot.

    Args:
        slot: e.g. "pixel_decoder".
        name: the registered name.
        cfg: MODEL.CMPF.EXTRA is passed to parts that have a parameter `extra`.
        like: CMPF's own part of the slot, whose signature the returned part accepts.
        fallback: builds parts whose name is not registered; None = such a name is an error.
    Raises:
        ConfigError: the name is unknown; the message lists the registered ones.
        PluginError: the part has another signature.
    """
    if fallback is not None and name not in registered(slot):
        return partial(_call_fallback, slot, fallback)  # type: ignore[return-value]
    return resolve(slot, name, like=like, extra=cfg.MODEL.CMPF.EXTRA)


def _call_fallback(slot: str, fallback: Callable[..., Any], **arguments: Any) -> Any:
    """Calls the fallback; the error for an unknown name also lists what plug-ins have registered."""
    try:
        return fallback(**arguments)
    except ModelNameError as error:
        names = ", ".join(registered(slot))
        raise ModelNameError(f"{error}{f'. Registered by plug-ins: {names}' if names else ''}") from error


register("pixel_decoder", "deformable")(PixelDecoder)
register("transformer_decoder", "masked_attention")(TransformerDecoder)
register("query_injector", "mask_pooling")(QueryInjector)
register("feature_injector", "cross_attention")(FeatureInjector)
register("criterion", "set_criterion")(SetCriterion)
register("class_ensemble", "geometric")(geometric_ensemble)
register("mask_ensemble", "openseg")(openseg_ensemble)
