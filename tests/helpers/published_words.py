# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Stand-ins for the papers' vocabulary files, which no test may download: other words, in the same form and place."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from cmpf.data.datasets import published
from cmpf.weights.vocabularies import vocabulary_path

COUNTS = {"pascal_voc_21": 21, "coco_panoptic": 133}  # file -> classes


def write_published_words(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files for PASCAL VOC and COCO in a cache folder: the class with index 7 is "pascal_voc_21 7", "alias 7"."""
    monkeypatch.setenv("CMPF_CACHE", str(cache))
    texts = {
        key: "\n".join(["0:invalid_class_id", *(f"{n + 1}:{key} {n},alias {n}" for n in range(count))])
        for key, count in COUNTS.items()
    }
    facts: dict[str, Any] = dict(published._facts())
    facts["sha256"] = {key: hashlib.sha256(text.encode()).hexdigest() for key, text in texts.items()}
    monkeypatch.setattr(published, "_facts", lambda: facts)
    for key, text in texts.items():
        vocabulary_path(key).parent.mkdir(parents=True, exist_ok=True)
        vocabulary_path(key).write_text(text)
