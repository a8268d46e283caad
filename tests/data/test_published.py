# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Seen classes and words of the published evaluations."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from cmpf.data import dataset_names, get_spec
from cmpf.data.datasets.published import (
    Shipped,
    has_published_words,
    published_address,
    published_file,
    published_files,
    published_seen,
    published_words,
)
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import VocabularyError

FACTS = Path(__file__).parent / "facts"
COCO = get_spec("openvocab_coco_2017_train_panoptic_with_sem_seg")
# How many classes of each dataset the papers' words make seen.
COUNTS = {
    "openvocab_coco_2017_val_panoptic_with_sem_seg": 133,
    "openvocab_ade20k_panoptic_val": 64,
    "openvocab_ade20k_full_sem_seg_val": 101,
    "openvocab_cityscapes_fine_panoptic_val": 17,
    "openvocab_coco_stuff_164k_sem_seg_val": 135,
    "openvocab_lvis_v1_val": 57,
    "openvocab_mapillary_vistas_panoptic_val": 26,
    "openvocab_pascal_ctx459_sem_seg_val": 85,
    "openvocab_pascal_ctx59_sem_seg_val": 51,
    "openvocab_pascal21_sem_seg_val": 21,
    "openvocab_pascal20_sem_seg_val": 20,
    "bdd10k_val_sem_seg": 13,
    "bdd10k_40_panoptic_val": 15,
}


@pytest.mark.parametrize("name", COUNTS)
def test_so_many_classes_are_seen_as_in_the_papers(name: str) -> None:
    flags = published_seen(get_spec(name), COCO)
    assert flags is not None
    assert (len(flags), sum(flags)) == (get_spec(name).vocabulary().num_classes, COUNTS[name])


def test_every_dataset_with_words_of_the_package_has_published_ones() -> None:
    shipped = [name for name in dataset_names() if isinstance(get_spec(name).vocabulary, Shipped)]
    assert len(shipped) >= 23
    assert all(has_published_words(get_spec(name)) for name in shipped)
    assert set(dataset_names()) - set(shipped) == {
        "shapes_train",
        "shapes_val",
        "shapes_hard_val",
        "shapes_tune",
    }


def test_well_known_classes_are_on_the_right_side() -> None:
    spec = get_spec("openvocab_ade20k_panoptic_val")
    flags = published_seen(spec, COCO)
    assert flags is not None
    seen = dict(zip(spec.vocabulary().names, flags, strict=True))
    assert all(seen[name] for name in ("wall", "sky", "person", "bed"))
    assert not any(seen[name] for name in ("column", "chandelier", "fountain", "flag", "lake"))


def test_words_decide_where_nothing_is_published() -> None:
    assert published_seen(get_spec("shapes_val"), COCO) is None
    assert published_seen(get_spec("openvocab_ade20k_panoptic_val"), get_spec("shapes_train")) is None
    assert not has_published_words(get_spec("shapes_val"))
    with pytest.raises(
        VocabularyError, match=r"shapes_val: no published words are known; set DATASETS.VOCABULARIES"
    ):
        published_words(get_spec("shapes_val"), lambda _: "")


def test_files_have_an_address_of_one_fixed_version_and_a_hash() -> None:
    files = published_files()
    assert len(files) == len(set(files.values())) == 10
    assert all(len(sha256) == 64 and set(sha256) <= set("0123456789abcdef") for sha256 in files.values())
    for key in files:
        assert published_address(key).startswith("https://raw.githubusercontent.com/")
        assert published_address(key).endswith(f"/{key}_with_prompt_eng.txt")
        assert "/2b0bbe213070d44da9182530fa2e826fef03f974/" in published_address(key)
    named = {published_file(get_spec(name)) for name in dataset_names()} - {""}
    assert named == set(files) - {"lvis_1203"}  # FrozenSeg took LVIS' own names


def test_a_published_file_becomes_the_vocabulary_of_its_dataset() -> None:
    spec = get_spec("openvocab_pascal21_sem_seg_val")
    lines = [f"{number}:w{number}, v{number}" for number in range(1, 22)]
    text = "\n".join(["0:invalid_class_id", *lines])
    words = published_words(spec, lambda key: text if key == "pascal_voc_21" else "")
    assert words.classes == tuple((f"w{n}", f"v{n}") for n in range(1, 22))
    assert words.is_thing == spec.vocabulary().is_thing
    # The 20 classes are in the same file, after the background.
    twenty = published_words(get_spec("openvocab_pascal20_sem_seg_val"), lambda _: text)
    assert twenty.classes == words.classes[1:]


def test_two_classes_of_a_published_file_may_have_the_same_words() -> None:
    lines = [f"{number}:w{max(number, 2)}" for number in range(1, 22)]
    words = published_words(get_spec("openvocab_pascal21_sem_seg_val"), lambda _: "\n".join(lines))
    assert words.classes[:3] == (("w2",), ("w2",), ("w3",))
    assert words.with_things([0]).with_seen([True] * 21).classes == words.classes


def test_a_file_with_another_number_of_classes_is_refused() -> None:
    spec = get_spec("openvocab_pascal20_sem_seg_val")
    with pytest.raises(VocabularyError, match="published words are for 2 classes, not for 20"):
        published_words(spec, lambda _: "1:background\n2:plane\n3:car")


@pytest.mark.parametrize("name", ["openvocab_lvis_v1_val", "bdd10k_40_panoptic_val"])
def test_names_of_the_dataset_itself_need_no_file(name: str) -> None:
    def read(key: str) -> str:
        raise AssertionError(key)

    words = published_words(get_spec(name), read)
    file = {"openvocab_lvis_v1_val": "lvis_v1_1203", "bdd10k_40_panoptic_val": "bdd100k_40"}[name]
    facts = json.loads(gzip.decompress((FACTS / f"{file}.json.gz").read_bytes()))
    assert words.classes == tuple((" ".join(row[1].split()),) for row in facts["rows"])


def test_the_flags_of_a_part_of_the_classes_are_those_of_these_classes() -> None:
    from dataclasses import replace

    whole = get_spec("openvocab_ade20k_panoptic_val")
    vocabulary = whole.vocabulary()
    things = Vocabulary(classes=[vocabulary.classes[index] for index in vocabulary.things])
    part = replace(whole, vocabulary=Shipped("ade20k_150", lambda _: things))
    flags = published_seen(whole, COCO)
    assert flags is not None
    assert published_seen(part, COCO) == tuple(flags[index] for index in vocabulary.things)
