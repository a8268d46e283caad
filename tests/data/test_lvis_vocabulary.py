# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""LVIS' vocabulary file, whose names are written with underscores and with explanations in brackets."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import cmpf
from cmpf.data import get_vocabulary
from cmpf.data.vocabulary import Vocabulary

FILE = Path(cmpf.__file__).parent / "assets" / "vocabularies" / "lvis_v1_1203.txt"
FACTS = json.loads(gzip.decompress((Path(__file__).parent / "facts" / "lvis_v1_1203.json.gz").read_bytes()))

# Names whose bare word is another thing to CLIP (a bow, a file, a mouse), and odd spellings: what stands first instead.
RENAMED = {
    **{17: "arctic boot", 137: "ribbon bow", 224: "plaster cast", 269: "garden clippers", 305: "food cooler"},
    **{439: "metal file", 448: "fish dish", 456: "camera flash", 498: "drinking glass", 579: "ice cream"},
    **{587: "clothes iron", 677: "gym mat", 696: "kitchen mixer", 698: "computer monitor"},
    **{704: "pitcher's mound", 705: "computer mouse", 729: "octopus meat", 752: "metal pan"},
    **{768: "passenger car of a train", 826: "fire poker", 832: "soda pop", 851: "puffer fish", 853: "pug"},
    **{855: "hole puncher", 875: "juicer", 895: "network router", 897: "carpet runner", 908: "salmon fillet"},
    **{939: "electric shaver", 1059: "storage tank", 1061: "adhesive tape", 1124: "chocolate truffle"},
    **{1191: "horse blinder", 1201: "ox yoke"},
}


def test_ids_stand_in_the_order_of_the_dataset() -> None:
    lines = [line for line in FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert [int(line.partition(":")[0]) for line in lines] == [row[0] for row in FACTS["rows"]]
    assert len(lines) == 1203


def test_each_class_has_the_datasets_own_name_or_a_listed_one() -> None:
    for (identity, name), words in zip(FACTS["rows"], Vocabulary.from_file(FILE).classes, strict=True):
        own = re.sub(r"_?\(.*\)", "", name).replace("_", " ").replace("-", " ").casefold()
        expected = RENAMED.get(identity, own)
        assert expected in {word.casefold().replace("-", " ") for word in words}, (identity, name, words)
        assert identity not in RENAMED or words[0] == RENAMED[identity]


def test_no_word_stands_in_two_classes() -> None:
    classes = Vocabulary.from_file(FILE).classes
    count = Counter(word.casefold() for words in classes for word in words)
    assert [word for word, times in count.items() if times > 1] == []


def test_seen_classes_are_those_that_coco_names() -> None:
    vocabulary = Vocabulary.from_file(FILE)
    seen = vocabulary.seen_in(get_vocabulary("openvocab_coco_2017_train_panoptic_with_sem_seg"))
    names = {name for name, flag in zip(vocabulary.names, seen, strict=True) if flag}
    assert {"person", "dog", "bicycle", "pizza", "toothbrush", "zebra"} <= names
    assert names.isdisjoint({"aerosol can", "chandelier", "hookah", "sombrero", "unicycle"})
    assert len(names) == 111  # from a look at the list: changes of either file must be looked at again


def test_all_are_things() -> None:
    assert all(get_vocabulary("openvocab_lvis_v1_val").is_thing)
