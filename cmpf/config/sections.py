# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The immutable parts of a configuration: sections of keys, free trees for plug-ins, and mappings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from cmpf.errors import ConfigError

FROZEN = (
    "a configuration cannot be changed; cmpf.config.with_overrides(cfg, {KEY: value}) makes a changed one"
)


class _Frozen(BaseModel):
    """An immutable model with a helpful error."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise ConfigError(f"{name} = {value!r}: {FROZEN}")

    def __delattr__(self, name: str) -> None:
        raise ConfigError(f"del {name}: {FROZEN}")


class FrozenDict(dict[str, str]):
    """An immutable mapping with the same error."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise ConfigError(f"{dict(self)}: {FROZEN}")

    __setitem__ = __delitem__ = __ior__ = update = pop = popitem = clear = setdefault = _refuse

    def __reduce__(self) -> tuple[type[FrozenDict], tuple[dict[str, str]]]:
        return FrozenDict, (dict(self),)  # the default sets item after item


class Section(_Frozen):
    """A section of keys; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def dump(self) -> str:
        """The section as YAML; `get_cfg` reads that of a whole configuration as an equal one."""
        return yaml.safe_dump(self.model_dump())


class MissingKeyError(ConfigError, AttributeError):
    """A plug-in reads a key that is not set."""


class Tree(_Frozen):
    """A tree of arbitrary keys for plug-ins: `cfg.MODEL.CMPF.EXTRA.MY.KEY`. Lists become tuples.

    Raises:
        ValueError: a name is not an identifier, or is an attribute of this class.
        MissingKeyError: a key that is read is not set.
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

    if not TYPE_CHECKING:  # else every attribute would be known to a type checker

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_") or name in self.model_extra:
                return super().__getattr__(name)
            raise MissingKeyError(
                f"a plug-in reads a key {name} that is not set; set are: {', '.join(self.model_extra) or 'none'}. "
                "Set it in MODEL.CMPF.EXTRA, or for a dataset reader under `extra` in the dataset's YAML file"
            )


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Tree.model_validate(value)
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value
