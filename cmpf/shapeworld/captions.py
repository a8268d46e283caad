# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Sentences about a scene, from the words for what is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

_COUNTS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}


def _enumeration(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _counted(word: str, count: int) -> str:
    return f"a {word}" if count == 1 else f"{_COUNTS.get(count, str(count))} {word}s"


def thing_caption(thing: str, ground: str) -> str:
    """One thing and the stuff behind it: "a red circle on grass", "a red circle in the sky"."""
    return f"a {thing} in the sky" if ground == "sky" else f"a {thing} on {ground}"


def scene_caption(things: Sequence[str], stuff: Sequence[str]) -> str:
    """All things and all stuff: "two red circles and a striped bar on grass and sand under the sky".

    Args:
        things: words in the order of drawing, at least one; a word given twice is counted.
        stuff: words, at least one, each once; "sky" moves to the end.
    """
    subjects = _enumeration([_counted(word, count) for word, count in Counter(things).items()])
    grounds = [word for word in stuff if word != "sky"]
    if not grounds:
        return f"{subjects} in the sky"
    return f"{subjects} on {_enumeration(grounds)}" + (" under the sky" if "sky" in stuff else "")
