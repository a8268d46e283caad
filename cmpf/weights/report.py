# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What became of each weight of a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

SHOWN = 5  # names of a long list that a message holds


@dataclass(frozen=True)
class PartReport:
    """What became of the weights of one part of a model.

    loaded: names now in the model. missing: in the model, not in the file. unexpected: in the file only.
    mismatched: "name: shape in the file, shape in the model".
    """

    loaded: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the file has every weight of the part, in its shape."""
        return not self.missing and not self.mismatched

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} weights loaded"]
        for what, names in (
            ("missing in the file", self.missing),
            ("of another shape", self.mismatched),
            ("in the file only, left out", self.unexpected),
        ):
            if names:
                lines.append(f"{len(names)} {what}: {shortened(names)}")
        return "; ".join(lines)


@dataclass(frozen=True)
class LoadReport(PartReport):
    """What became of each weight of a file; the lists of PartReport are those of the trained part.

    clip, sam: frozen encoders that the file brought; empty where it brought none. ignored: entries of the file
    that are no weights of the network (the criterion's class weights, preprocessing constants, a second CLIP that a
    trained one was compared with).
    naming: whose names the file uses.
    """

    clip: PartReport = field(default_factory=PartReport)
    sam: PartReport = field(default_factory=PartReport)
    ignored: tuple[str, ...] = ()
    naming: str = "own"

    def __str__(self) -> str:
        lines = [super().__str__()]
        for title, part in (("frozen CLIP", self.clip), ("frozen SAM", self.sam)):
            if part != PartReport():
                lines.append(f"{title}: {part}")
        if self.ignored:
            lines.append(f"{len(self.ignored)} ignored: {_by_start(self.ignored)}")
        text = "; ".join(lines)
        return text if self.naming == "own" else f"{self.naming} naming: {text}"


@dataclass(frozen=True)
class Part:
    """One part of a model and what a file has for it."""

    given: dict[str, Tensor]
    own: Mapping[str, Tensor]
    report: PartReport

    @property
    def foreign(self) -> bool:
        """Whether the file's weights are those of another architecture, of which none is taken."""
        return bool(self.own and self.given) and not self.report.loaded


def compare(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> PartReport:
    """What loading `given` into `own` would do, by names and shapes."""
    mismatched = {n for n in own if n in given and given[n].shape != own[n].shape}
    return PartReport(
        loaded=tuple(n for n in own if n in given and n not in mismatched),
        missing=tuple(n for n in own if n not in given),
        unexpected=tuple(n for n in given if n not in own),
        mismatched=tuple(
            f"{n}: {_shape(given[n])} in the file, {_shape(own[n])} here" for n in own if n in mismatched
        ),
    )


def shortened(names: tuple[str, ...]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def _by_start(names: tuple[str, ...]) -> str:
    """Names, those of one module as its name and their number: a second CLIP has hundreds."""
    counts = Counter(name.partition(".")[0] for name in names)
    return shortened(
        tuple(
            f"{count} of {start}.*" if count > 1 else next(n for n in names if n.partition(".")[0] == start)
            for start, count in counts.items()
        )
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
