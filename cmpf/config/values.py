# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The types of values, with their validation and description.

Strings are parsed as Python literals where a key expects another type: YAML reads 1e-4 as a string, and command lines
contain only strings.
"""

from __future__ import annotations

import math
from ast import literal_eval
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Len, Lt, MultipleOf
from pydantic import AfterValidator, BeforeValidator, StringConstraints

from cmpf.config.sections import FrozenDict, Tree


@dataclass(frozen=True)
class Allowed:
    """A description of the allowed values of a key, for errors and documentation."""

    text: str


def literal(value: Any) -> Any:
    """Parses a string as a Python literal if it is one; returns other values unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def _number(value: Any) -> float:
    value = literal(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("not a number")
    try:
        finite = math.isfinite(float(value))
    except OverflowError:
        finite = False
    if not finite:
        raise ValueError("not finite")
    return value


def _whole(value: Any) -> int:
    number = _number(value)
    if int(number) != number:
        raise ValueError("not whole")
    return int(number)


def _flag(value: Any) -> bool:
    value = {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value
    if not isinstance(value, bool):
        raise ValueError("neither True nor False")
    return value


def _text(value: Any) -> str:
    """A string. One in quotes is parsed, because a command line may pass '""' for an empty string."""
    parsed = literal(value)
    text = parsed if isinstance(parsed, str) else value
    if not isinstance(text, str):
        raise ValueError("not a text")
    return text


def _sequence(value: Any) -> tuple[Any, ...]:
    value = literal(value)
    if not isinstance(value, (list, tuple)):
        raise ValueError("not a list")
    return tuple(value)


def _names(value: Any) -> tuple[Any, ...]:
    """A sequence of names; a single name needs no brackets. In a list on a command line, names need quotes."""
    value = literal(value)
    is_name = isinstance(value, str) and value and value[0] not in "[("
    return (value,) if is_name else _sequence(value)


def _names_of(item: Any, *, least: int = 0) -> BeforeValidator:
    """Validates `_names`; the JSON Schema of `item` holds for a single name, too."""
    return BeforeValidator(_names, json_schema_input_type=item | Annotated[tuple[item, ...], Len(least)])


def _vocabularies(value: Any) -> Any:
    value = literal(value)
    if isinstance(value, str) and value not in ("published", "own"):
        raise ValueError("neither published nor own")
    return value


def _rising(values: tuple[int, ...]) -> tuple[int, ...]:
    if any(a >= b for a, b in pairwise(values)):
        raise ValueError("not rising")
    return values


NUMBER, WHOLE, TEXT = BeforeValidator(_number), BeforeValidator(_whole), BeforeValidator(_text)
SEQUENCE = BeforeValidator(_sequence)
_Literal = TypeVar("_Literal")
_Number = Annotated[float, NUMBER]
_Positive = Annotated[float, Gt(0), NUMBER]
_Tolerance = Annotated[float, Ge(0), NUMBER]

Flag = Annotated[bool, BeforeValidator(_flag), Allowed("True or False")]
Choice = Annotated[_Literal, TEXT]  # Choice[Literal["a", "b"]]
Text = Annotated[str, TEXT, Allowed("text")]
Name = Annotated[str, Len(1), TEXT, Allowed("a name, not empty")]
Task = Literal["semantic", "panoptic", "instance"]
Device = Annotated[
    str,
    StringConstraints(pattern=r"^(auto|cpu|mps|(cuda|xpu)(:[0-9]+)?)$"),
    TEXT,
    Allowed("auto, cpu, mps, cuda, cuda:N, xpu or xpu:N"),
]
Metric = Annotated[
    str,
    StringConstraints(pattern=r"^([^/]+/[^/]+)?$"),
    TEXT,
    Allowed('task/metric, such as panoptic/PQ, or ""'),
]

# Upper bounds are far above practical values, but low enough that a typo is reported before memory is allocated.
Count = Annotated[int, Gt(0), Le(10**9), WHOLE, Allowed("a whole number > 0, up to 1,000,000,000")]
CountOrZero = Annotated[int, Ge(0), Le(10**9), WHOLE, Allowed("a whole number >= 0, up to 1,000,000,000")]
Seed = Annotated[int, Ge(0), Lt(2**63), WHOLE, Allowed("a whole number >= 0, below 2^63")]
SmallCount = Annotated[int, Gt(0), Le(65536), WHOLE, Allowed("a whole number > 0, up to 65,536")]
Side = Annotated[int, Gt(0), Le(65536), WHOLE, Allowed("a whole number > 0, up to 65,536 pixels")]
SideOrZero = Annotated[int, Ge(0), Le(65536), WHOLE, Allowed("a whole number >= 0, up to 65,536 pixels")]
Maps = Annotated[int, Ge(1), Le(256), WHOLE, Allowed("a whole number from 1 to 256")]
Width = Annotated[int, Ge(1), Le(8192), WHOLE, Allowed("a whole number from 1 to 8192")]
Few = Annotated[int, Gt(0), Le(1024), WHOLE, Allowed("a whole number > 0, up to 1,024")]
FewOrZero = Annotated[int, Ge(0), Le(1024), WHOLE, Allowed("a whole number >= 0, up to 1,024")]
Workers = Annotated[
    int, Ge(-1), Le(1024), WHOLE, Allowed("a whole number >= 0, up to 1,024, or -1 = by the cores")
]
Heads = Annotated[
    int,
    Ge(2),
    Le(1024),
    WHOLE,
    Allowed("a whole number >= 2, up to 1,024 (decoder layers + the head before the first)"),
]
Divisibility = Annotated[
    int,
    Gt(0),
    Le(65536),
    MultipleOf(32),
    WHOLE,
    Allowed("a multiple of 32, the coarsest stride, up to 65,536"),
]
Level = Annotated[Literal[0, 1, 2], WHOLE, Allowed("0, 1 or 2 (strides 32, 16, 8)")]
FlatLevels = Annotated[Literal[0, 3], WHOLE, Allowed("0 (correct attention) or 3 (published arithmetic)")]
Version = Annotated[Literal[2], WHOLE, Allowed("2 (a higher version needs a newer CMPF)")]

Positive = Annotated[float, Gt(0), NUMBER, Allowed("a number > 0")]
Weight = Annotated[float, Ge(0), NUMBER, Allowed("a number >= 0")]
Fraction = Annotated[float, Ge(0), Le(1), NUMBER, Allowed("a number from 0 to 1")]
Share = Annotated[float, Gt(0), Lt(1), NUMBER, Allowed("a number > 0 and < 1")]
Ratio = Annotated[float, Ge(1), NUMBER, Allowed("a number >= 1")]
Decay = Annotated[float, Ge(0), Lt(1), NUMBER, Allowed("a number >= 0 and < 1")]
Factor = Annotated[float, Gt(0), Le(1), NUMBER, Allowed("a number > 0 and <= 1")]

ThreeNumbers = Annotated[
    tuple[_Number, _Number, _Number], SEQUENCE, Allowed("three numbers (red, green, blue)")
]
ThreePositive = Annotated[
    tuple[_Positive, _Positive, _Positive], SEQUENCE, Allowed("three numbers > 0 (red, green, blue)")
]
TwoPositive = Annotated[tuple[_Positive, _Positive], SEQUENCE, Allowed("two numbers > 0, such as (512, 512)")]
Sides = Annotated[
    tuple[Side, ...], Len(1, 1000), SEQUENCE, Allowed("a list of whole numbers > 0, such as (512, 640)")
]
Rising = Annotated[
    tuple[Count, ...], AfterValidator(_rising), SEQUENCE, Allowed("a list of rising whole numbers > 0")
]
Names = Annotated[
    tuple[Name, ...], _names_of(Name), Allowed('a list of dataset names, such as ("shapes_val",)')
]
SomeNames = Annotated[
    tuple[Name, ...],
    Len(1),
    _names_of(Name, least=1),
    Allowed('at least one dataset name, such as ("shapes_train",)'),
]
Modules = Annotated[
    tuple[Name, ...], _names_of(Name), Allowed('a list of modules, such as ("my_package.my_parts",)')
]
Parts = Annotated[
    tuple[Name, ...], _names_of(Name), Allowed('a list of registered names, such as ("random_flip",)')
]
Vocabularies = Annotated[
    str | dict[Name, Name],
    Len(1),
    BeforeValidator(
        _vocabularies,
        json_schema_input_type=Literal["published", "own"] | Annotated[dict[Name, Name], Len(1)],
    ),
    AfterValidator(lambda value: FrozenDict(value) if isinstance(value, dict) else value),
    Allowed("published, own, or {dataset: vocabulary file}"),
]
Expectations = Annotated[
    tuple[tuple[Annotated[str, Len(1)], Annotated[str, Len(1)], _Number, _Tolerance], ...],
    SEQUENCE,
    Allowed('a list of (task, metric, percent, tolerance), such as [["panoptic", "PQ", 45.2, 0.5]]'),
]
Tasks = Annotated[
    tuple[Task, ...],
    Len(1),
    _names_of(Task, least=1),
    Allowed('a list of semantic, panoptic and instance, such as ("semantic",)'),
]
FreeTree = Annotated[Tree, Allowed("keys and YAML values of your own")]
