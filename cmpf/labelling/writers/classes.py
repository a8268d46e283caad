# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The classes of a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cmpf.formats.coco_json import Entry, category_entries

FIRST_ID = 1  # of a category in COCO's files: class index + 1, for 0 is background to most trainers


@dataclass(frozen=True)
class Classes:
    """Name of each class index, and whether it is counted one by one."""

    names: tuple[str, ...]
    is_thing: tuple[bool, ...]

    @classmethod
    def of(cls, configuration: Mapping[str, Any]) -> Classes:
        """Those of configuration_of."""
        names = tuple(words.split(", ")[0] for words in configuration["vocabulary"])
        return cls(names, tuple(name not in configuration["stuff"] for name in names))

    @property
    def stuff(self) -> tuple[str, ...]:
        """Names of those that are not counted."""
        return tuple(name for name, thing in zip(self.names, self.is_thing, strict=True) if not thing)

    def categories(self) -> list[Entry]:
        """COCO's list, ids from 1."""
        return category_entries(self.names, self.is_thing, first=FIRST_ID)
