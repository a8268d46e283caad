# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The parts that a model is built of, by slot: CMPF's own, registered by name, and how a configuration's are found."""

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
from cmpf.registry import bound, register, registered

Part = TypeVar("Part", bound=Callable[..., Any])


def part(
    slot: str, name: str, cfg: Config, *, like: Part, otherwise: Callable[..., Any] | None = None
) -> Part:
    """What a name stands for in a slot.

    Args:
        like: CMPF's own part of the slot: one of the user's is called with the same parameters, and with the tree
            MODEL.CMPF.EXTRA where it has a parameter `extra`.
        otherwise: takes names that nobody has registered, and says what is wrong with them; None = there are none.
    Raises:
        ConfigError: unknown name; lists what is registered. PluginError: it cannot be called so.
    """
    if otherwise is not None and name not in registered(slot):
        return partial(_named, slot, otherwise)  # type: ignore[return-value]
    return bound(slot, name, like=like, extra=cfg.MODEL.CMPF.EXTRA)


def _named(slot: str, otherwise: Callable[..., Any], **arguments: Any) -> Any:
    try:
        return otherwise(**arguments)
    except ModelNameError as error:
        own = ", ".join(registered(slot))
        raise ModelNameError(f"{error}{f'. Registered by plug-ins: {own}' if own else ''}") from error


register("pixel_decoder", "deformable")(PixelDecoder)
register("transformer_decoder", "masked_attention")(TransformerDecoder)
register("query_injector", "mask_pooling")(QueryInjector)
register("feature_injector", "cross_attention")(FeatureInjector)
register("criterion", "set_criterion")(SetCriterion)
register("class_ensemble", "geometric")(geometric_ensemble)
register("mask_ensemble", "openseg")(openseg_ensemble)
