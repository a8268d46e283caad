# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The 54 categories of ShapeWorld, their split into seen and unseen, and captions.

A thing is a shape in a material ("red circle"); stuff is a texture that fills a region. A thing is unseen because its
combination is held out (shape and material are seen, but never together), its shape is unseen, or its material is
unseen. Patterned materials and strongly textured stuff are unseen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

COLORS = ("red", "yellow", "green", "blue", "purple")
PATTERNS = ("striped", "dotted", "checkered")
MATERIALS = COLORS + PATTERNS
SEEN_SHAPES = ("circle", "bar", "ring", "triangle")
UNSEEN_SHAPES = ("star", "bolt")
SHAPES = SEEN_SHAPES + UNSEEN_SHAPES

# One seen shape is held out for each color, and at least one color for each seen shape.
HELD_OUT = (
    ("red", "ring"),
    ("yellow", "bar"),
    ("green", "triangle"),
    ("blue", "circle"),
    ("purple", "ring"),
)

_MATERIAL_SYNONYM = {
    "red": "scarlet",
    "yellow": "golden",
    "green": "emerald",
    "blue": "cobalt",
    "purple": "violet",
    "striped": "zebra",
    "dotted": "spotted",
    "checkered": "chessboard",
}
_SHAPE_SYNONYM = {
    "circle": "disc",
    "bar": "plank",
    "ring": "hoop",
    "triangle": "wedge",
    "star": "pentagram",
    "bolt": "lightning",
}
_SEEN_STUFF = {
    "sky": ("cloudy sky", "heaven"),
    "grass": ("lawn", "meadow"),
    "sand": ("beach", "desert"),
    "water": ("sea", "lake"),
    "road": ("asphalt", "street"),
    "snow": ("snowfield", "ice"),
}
_UNSEEN_STUFF = {
    "brick": ("brick wall", "masonry"),
    "wood": ("timber", "wooden boards"),
    "tiles": ("tiled floor", "mosaic"),
    "gravel": ("pebbles", "stones"),
    "leaves": ("autumn leaves", "foliage"),
    "bamboo": ("reeds", "canes"),
}


@dataclass(frozen=True)
class Category:
    """One class of ShapeWorld.

    id: class index 0..53; seen classes come first, so it is also the index in the seen vocabulary.
    name, synonyms: its words; no two categories share a word.
    isthing: whether it is a thing rather than stuff.
    seen: whether it appears in training images of the decoder.
    shape, material: of a thing; "" for stuff.
    """

    id: int
    name: str
    synonyms: tuple[str, ...]
    isthing: bool
    seen: bool
    shape: str = ""
    material: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """The name, then the synonyms."""
        return (self.name, *self.synonyms)


def _thing_is_seen(material: str, shape: str) -> bool:
    return material in COLORS and shape in SEEN_SHAPES and (material, shape) not in HELD_OUT


def _compositions() -> list[tuple[str, str]]:
    """All pairs (material, shape) except unseen shapes in unseen materials."""
    return [(m, s) for m in MATERIALS for s in SHAPES if not (m in PATTERNS and s in UNSEEN_SHAPES)]


def _build_categories() -> tuple[Category, ...]:
    categories: list[Category] = []
    for seen, stuff in ((True, _SEEN_STUFF), (False, _UNSEEN_STUFF)):
        for material, shape in _compositions():
            if _thing_is_seen(material, shape) == seen:
                synonyms = (f"{material} {_SHAPE_SYNONYM[shape]}", f"{_MATERIAL_SYNONYM[material]} {shape}")
                name = f"{material} {shape}"
                categories.append(Category(len(categories), name, synonyms, True, seen, shape, material))
        for name, synonyms in stuff.items():
            categories.append(Category(len(categories), name, synonyms, False, seen))
    return tuple(categories)


CATEGORIES = _build_categories()
THINGS = tuple(category for category in CATEGORIES if category.isthing)
STUFF = tuple(category for category in CATEGORIES if not category.isthing)


def vocabulary_text(categories: tuple[Category, ...]) -> str:
    """The text of a vocabulary file: thing flags in a comment, then `id:name,synonym,synonym` lines, ids from 1."""
    flags = " ".join(str(int(category.isthing)) for category in categories)
    lines = [f"# ShapeWorld, {len(categories)} categories", f"# isthing: {flags}"]
    lines += [f"{category.id + 1}:{','.join(category.words)}" for category in categories]
    return "\n".join(lines) + "\n"


_COUNTS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}


def _enumeration(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _counted(word: str, count: int) -> str:
    return f"a {word}" if count == 1 else f"{_COUNTS.get(count, str(count))} {word}s"


def thing_caption(thing: str, ground: str) -> str:
    """Caption of one thing and the stuff behind it: "a red circle on grass", "a red circle in the sky"."""
    return f"a {thing} in the sky" if ground == "sky" else f"a {thing} on {ground}"


def scene_caption(things: Sequence[str], stuff: Sequence[str]) -> str:
    """Caption of all things and stuff: "two red circles and a striped bar on grass and sand under the sky".

    Args:
        things: names in drawing order, at least one; repeated names are counted.
        stuff: names without repetition, at least one; "sky" is moved to the end.
    """
    subjects = _enumeration([_counted(word, count) for word, count in Counter(things).items()])
    grounds = [word for word in stuff if word != "sky"]
    if not grounds:
        return f"{subjects} in the sky"
    return f"{subjects} on {_enumeration(grounds)}" + (" under the sky" if "sky" in stuff else "")
