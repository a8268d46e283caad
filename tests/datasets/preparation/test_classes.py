# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
from preparation.classes import class_names

from cmpf.errors import VocabularyError


def test_names_are_the_first_words_in_order() -> None:
    names = class_names("ade20k_150", count=150)
    assert names[:3] == ("wall", "building", "sky")
    assert names[149] == "flag"


def test_another_number_of_classes_and_unknown_files_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ade20k_150\.txt: 150 classes; expected 151"):
        class_names("ade20k_150", count=151)
    with pytest.raises(VocabularyError, match=r"zoo\.txt: cannot be read"):
        class_names("zoo", count=1)
