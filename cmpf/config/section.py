# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What the tree of keys is made of: sections with fixed keys, and free trees for the keys of plug-ins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """A section of keys. It cannot be changed, and has no other keys than its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def dump(self) -> str:
        """The section as YAML, which `get_cfg` reads as the same configuration where it is the whole."""
        return yaml.safe_dump(self.model_dump())


class Tree(BaseModel):
    """Keys that nobody but a plug-in knows: `cfg.MODEL.CMPF.EXTRA.MY.KEY`. Lists become tuples.

    Raises:
        ValueError: a name that is no name of an attribute, or that the tree itself uses.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _freeze(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        for name in given:
            if not str(name).isidentifier() or str(name).startswith("_") or hasattr(cls, str(name)):
                raise ValueError(f"{name!r} cannot be a key, write it as MY_{str(name).upper()} or the like")
        return {name: _frozen(value) for name, value in given.items()}


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Tree.model_validate(value)
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value
