# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import sys

import pytest
from helpers.cityscapes_truth import LABEL_IDS, NAMES

from cmpf.errors import EvaluationError
from cmpf.evaluation import CityscapesEvaluator, cityscapes_scripts


def test_label_ids_are_those_of_the_dataset() -> None:
    pytest.importorskip(
        "cityscapesscripts", reason="needs pip install cityscapesscripts (extra 'cityscapes')"
    )
    assert cityscapes_scripts.label_ids().tolist() == list(LABEL_IDS)


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cityscapesscripts.helpers.labels", None)
    with pytest.raises(EvaluationError, match=r"needs the package cityscapesscripts.*pip install"):
        CityscapesEvaluator(class_names=NAMES)
