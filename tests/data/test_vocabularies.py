# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The shipped vocabularies, and seen classes and words of the published evaluations."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import cmpf
from cmpf.data import dataset_names, get_spec, get_vocabulary
from cmpf.data.datasets.published import (
    has_published_words,
    published_address,
    published_file,
    published_files,
    published_seen,
    published_words,
)
from cmpf.data.datasets.spec import Shipped
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import VocabularyError

FOLDER = Path(cmpf.__file__).parent / "assets" / "vocabularies"
FACTS = Path(__file__).parent / "facts"

# File -> list of the dataset's categories, in the order of its class indices.
FACTS_OF = {
    "coco_panoptic": "coco_panoptic_133",
    "ade20k_150": "ade20k_150",
    "ade20k_847": "ade20k_847",
    "cityscapes_19": "cityscapes_19",
    "mapillary_vistas_65": "mapillary_vistas_65",
    "bdd100k_40": "bdd100k_40",
    "bdd100k_19": "cityscapes_19",  # BDD100K took over Cityscapes' training ids and names
    "pascal_context_459": "pascal_context_459",
    "pascal_context_59": "pascal_context_59",
    "pascal_voc_21": "pascal_voc_21",
    "pascal_voc_20": "pascal_voc_21",  # without background
    "coco_stuff_171": "coco_stuff_171",
}
# Semantic datasets: their lists say nothing about things, or the same for every class.
OWN_FLAGS = ("ade20k_847", "pascal_context_459", "pascal_context_59", "pascal_voc_21", "pascal_voc_20")

# Seen classes, from a look at every list: changes of any file must be looked at again.
SEEN_COUNTS = {
    "coco_panoptic": 133,
    "ade20k_150": 74,
    "ade20k_847": 125,
    "cityscapes_19": 16,
    "mapillary_vistas_65": 28,
    "bdd100k_40": 19,
    "bdd100k_19": 16,
    "pascal_context_459": 103,
    "pascal_context_59": 54,
    "pascal_voc_21": 21,
    "pascal_voc_20": 20,
    "coco_stuff_171": 159,
}

# Names that are no English as they stand, or that another word of the same meaning replaces.
RENAMED = {
    "floor-wood": "wood floor",
    "floor-marble": "marble floor",
    "floor-stone": "stone floor",
    "floor-tile": "tile floor",
    "wall-brick": "brick wall",
    "wall-concrete": "concrete wall",
    "wall-panel": "wall panel",
    "wall-stone": "stone wall",
    "wall-tile": "tile wall",
    "wall-wood": "wood wall",
    "window-blind": "window blind",
    "ceiling-tile": "ceiling tile",
    "solid": "solid object",
    "structural": "structure",
    "playingfield": "playing field",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv monitor",
    "casette recorder": "cassette recorder",
    "fire place": "fireplace",
    "tong": "tongs",
    "unknown": "unknown object",
    "dynamic": "dynamic object",
    "static": "static object",
    "polegroup": "pole group",
    "crosswalk - plain": "plain crosswalk",
    "lane marking - crosswalk": "crosswalk marking",
    "lane marking - general": "lane marking",
    "traffic sign (back)": "traffic sign back",
    "traffic sign (front)": "front of a traffic sign",
    "on rails": "vehicle on rails",
    "wheeled slow": "slow wheeled vehicle",
    "ash-bin": "ash bin",
    "ashbin": "ash bin",
    "advertizement": "advertising",
    "forte-piano": "pianoforte",
    "vent-hole": "venthole",
    "check-in-desk": "check-in desk",
    "c p u": "cpu",
}

# ADE20K names classes by WordNet's synonyms. Those that are the name of another class of the dataset, or that
# name something else first (a "throne" is no toilet to CLIP), are left out: id, words; ...
LEFT_OUT = {
    "ade20k_150": """
        6 route; 35 press; 58 screen; 61 span; 63 screen; 65 can, crapper, pot, potty, stool, throne; 94
        ground; 97 puff; 99 counter; 100 posting, bill, card; 105 transporter; 131 cover
    """,
    "ade20k_847": """
        4 route; 11 individual, someone, somebody, mortal, soul; 14 machine; 19 mantle, pall; 46 closet,
        press; 49 pedestal, stand; 50 span; 51 screen; 53 drop; 57 screen; 58 can, crapper, pot, potty,
        stool, throne; 68 chest; 72 range; 79 computing machine, computing device, data processor,
        information processing system; 80 coach, charabanc, jitney, motorcoach, passenger vehicle; 88 idiot
        box, boob tube, goggle box; 92 posting, bill, card; 99 carrier; 100 counter; 101 shanty; 104 animate
        being, beast, brute; 105 pendant, pendent; 107 stall; 108 wheel; 112 marque; 118 ground; 123 stand;
        126 puff; 130 pot; 131 transporter; 147 screen; 150 cover; 153 screen; 165 equus caballus; 174 pier;
        191 bag, grip; 192 notice board; 206 spot; 219 fluorescent; 229 grill; 249 lid; 252 bag; 253 papers;
        259 canis familiaris; 280 patio; 292 postbox; 310 grand; 316 headstone, tombstone; 333 fish tank;
        334 trolley; 337 brochure; 351 ware, product; 355 tin; 357 material; 371 basket; 372 wheel; 375
        staff of life; 379 paper; 393 skirting board; 408 boiler; 410 carriage, go-cart, pusher; 412 pipe;
        426 tin; 431 ticket office; 441 plug; 478 electric light; 486 asphyxiator; 502 blowhole; 537 grip,
        hold; 555 dish; 556 alarm; 574 eyeglasses; 642 hydrant; 647 cuticle, shield; 729 cell; 737 push; 768
        control panel, instrument panel, board, panel; 782 central processor, processor; 796 dog
    """,
}

Row = tuple[int, str, int | None]


@cache
def facts(name: str) -> tuple[Row, ...]:
    """(dataset id, name, isthing) of each class of a file."""
    content: dict[str, Any] = json.loads(gzip.decompress((FACTS / f"{FACTS_OF[name]}.json.gz").read_bytes()))
    rows = [tuple(row) for row in content["rows"]]
    if name == "pascal_voc_20":
        rows = rows[1:]
    if name == "bdd100k_19":
        rows = [(index, *row[1:]) for index, row in enumerate(rows)]
    return tuple(rows)


@cache
def load(name: str) -> Vocabulary:
    return Vocabulary.from_file(FOLDER / f"{name}.txt")


def parts(name: str) -> list[str]:
    """The words of a dataset's class name: "tree-merged" -> tree; "building, edifice" -> building, edifice."""
    plain = [re.sub(r"(-other|-merged|-stuff)+$", "", part.strip().lower()) for part in name.split(",")]
    return [RENAMED.get(part, part) for part in plain if part]


every_file = pytest.mark.parametrize("name", FACTS_OF)


def test_every_file_in_the_package_is_checked_here() -> None:
    # LVIS' names are written in a form of their own: tests/data/test_lvis_vocabulary.py
    assert {path.stem for path in FOLDER.glob("*.txt")} - {"lvis_v1_1203"} == set(FACTS_OF)


@every_file
def test_ids_and_their_order_are_the_datasets(name: str) -> None:
    lines = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert "synonyms are CMPF's own words" in lines[0]
    ids = [int(line.partition(":")[0]) for line in lines if not line.startswith("#")]
    assert ids == [row[0] for row in facts(name)]


@every_file
def test_the_datasets_own_words_are_among_the_synonyms(name: str) -> None:
    missing: dict[int, str] = {}
    for (identity, own, _), words in zip(facts(name), load(name).classes, strict=True):
        if absent := [part for part in parts(own) if part not in words]:
            missing[identity] = ", ".join(absent)
    entries = [entry.split(maxsplit=1) for entry in LEFT_OUT.get(name, "").split(";") if entry.strip()]
    assert missing == {int(identity): " ".join(words.split()) for identity, words in entries}


@every_file
def test_no_word_stands_for_two_classes(name: str) -> None:
    count = Counter(word.casefold() for words in load(name).classes for word in words)
    assert [word for word, times in count.items() if times > 1] == []


@every_file
def test_words_are_lower_case_and_the_first_needs_no_bracket(name: str) -> None:
    vocabulary = load(name)
    assert vocabulary.names == tuple(words[0] for words in vocabulary.classes)
    for words in vocabulary.classes:
        assert all(re.fullmatch(r"[a-z0-9][a-z0-9' -]*", word) for word in words), words


@every_file
def test_the_file_holds_no_word_twice_in_a_line(name: str) -> None:
    text = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    lines = [line.partition(":")[2].split(",") for line in text.splitlines() if not line.startswith("#")]
    assert tuple(map(tuple, lines)) == load(name).classes


@pytest.mark.parametrize("name", [name for name in FACTS_OF if name not in OWN_FLAGS])
def test_thing_flags_are_the_datasets(name: str) -> None:
    assert load(name).is_thing == tuple(bool(row[2]) for row in facts(name))


@pytest.mark.parametrize(
    ("name", "like"), [("ade20k_847", "ade20k_150"), ("pascal_context_59", "pascal_context_459")]
)
def test_own_thing_flags_agree_between_the_lists_of_one_dataset(name: str, like: str) -> None:
    flags = dict(zip(load(like).names, load(like).is_thing, strict=True))
    own = dict(zip(load(name).names, load(name).is_thing, strict=True))
    shared = flags.keys() & own.keys()
    assert len(shared) > 50
    assert {word for word in shared if flags[word] != own[word]} == set()


@pytest.mark.parametrize(
    ("name", "things", "stuff"),
    [
        ("ade20k_847", ("person", "bird", "typewriter", "stretcher"), ("sky", "forest", "rubble", "valley")),
        ("pascal_context_459", ("accordion", "player", "tire"), ("smoke", "hay", "leaves", "wall")),
        ("pascal_context_59", ("aeroplane", "bag", "mouse"), ("cloth", "wood", "water")),
        ("pascal_voc_21", ("person", "sofa"), ("background",)),
    ],
)
def test_own_thing_flags_are_common_sense(name: str, things: tuple[str, ...], stuff: tuple[str, ...]) -> None:
    vocabulary = load(name)
    kinds = dict(zip(vocabulary.names, vocabulary.is_thing, strict=True))
    assert all(kinds[word] for word in things)
    assert not any(kinds[word] for word in stuff)


@every_file
def test_the_number_of_seen_classes_is_as_looked_through(name: str) -> None:
    seen = load(name).seen_in(load("coco_panoptic"))
    print(f"{name}: {sum(seen)} of {len(seen)} classes are seen in COCO panoptic")
    assert sum(seen) == SEEN_COUNTS[name]


@pytest.mark.parametrize(
    ("name", "known", "unknown"),
    [
        (
            "ade20k_150",
            ("person", "sofa", "plane", "tv", "sidewalk", "lamp", "hill", "lake", "motorbike", "cushion"),
            (
                "chandelier",
                "sconce",
                "armchair",
                "van",
                "ship",
                "painting",
                "runway",
                "street lamp",
                "monitor",
            ),
        ),
        (
            "ade20k_847",
            ("person", "dog", "fire hydrant", "napkin", "railway", "hair dryer", "tie", "pond"),
            ("aqueduct", "hen", "duck", "canoe", "mug", "teacup", "tram", "machine", "bag", "panel", "stool"),
        ),
        ("cityscapes_19", ("person", "train", "terrain", "vegetation"), ("rider", "pole", "traffic sign")),
        (
            "mapillary_vistas_65",
            ("bird", "ground animal", "rail vehicle", "banner", "bench"),
            ("bicyclist", "curb", "plain crosswalk", "billboard", "pothole", "car mount", "ego vehicle"),
        ),
        (
            "bdd100k_40",
            ("banner", "bridge", "sky", "rail track"),
            ("dynamic object", "tunnel", "caravan", "ground"),
        ),
        (
            "pascal_context_459",
            ("ski", "wine glass", "tv monitor", "cake", "fridge"),
            ("accordion", "chicken", "swan", "parasol", "straw", "unknown object", "box", "brick"),
        ),
        (
            "pascal_context_59",
            ("track", "bag", "shelves", "ground"),
            ("cloth", "computer", "plate", "sign", "wood"),
        ),
        (
            "coco_stuff_171",
            ("straw", "fog", "cage", "salad", "desk"),
            ("metal", "clothes", "water drops", "plant"),
        ),
    ],
)
def test_seen_and_unseen_are_as_a_person_would_say(
    name: str, known: tuple[str, ...], unknown: tuple[str, ...]
) -> None:
    vocabulary = load(name)
    seen = dict(zip(vocabulary.names, vocabulary.seen_in(load("coco_panoptic")), strict=True))
    assert [word for word in known if not seen[word]] == []
    assert [word for word in unknown if seen[word]] == []


def test_the_words_of_one_thing_are_the_same_in_related_files() -> None:
    assert load("bdd100k_19").classes == load("cityscapes_19").classes
    assert load("pascal_voc_20").classes == load("pascal_voc_21").classes[1:]
    coco, stuff = load("coco_panoptic"), load("coco_stuff_171")
    assert stuff.classes[:80] == coco.classes[:80]


LVIS_FILE = Path(cmpf.__file__).parent / "assets" / "vocabularies" / "lvis_v1_1203.txt"
LVIS_FACTS = json.loads(
    gzip.decompress((Path(__file__).parent / "facts" / "lvis_v1_1203.json.gz").read_bytes())
)

# Names whose bare word is another thing to CLIP (a bow, a file, a mouse), and odd spellings: what stands first instead.
LVIS_RENAMED = {
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
    lines = [line for line in LVIS_FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert [int(line.partition(":")[0]) for line in lines] == [row[0] for row in LVIS_FACTS["rows"]]
    assert len(lines) == 1203


def test_each_class_has_the_datasets_own_name_or_a_listed_one() -> None:
    for (identity, name), words in zip(
        LVIS_FACTS["rows"], Vocabulary.from_file(LVIS_FILE).classes, strict=True
    ):
        own = re.sub(r"_?\(.*\)", "", name).replace("_", " ").replace("-", " ").casefold()
        expected = LVIS_RENAMED.get(identity, own)
        assert expected in {word.casefold().replace("-", " ") for word in words}, (identity, name, words)
        assert identity not in LVIS_RENAMED or words[0] == LVIS_RENAMED[identity]


def test_no_word_stands_in_two_classes() -> None:
    classes = Vocabulary.from_file(LVIS_FILE).classes
    count = Counter(word.casefold() for words in classes for word in words)
    assert [word for word, times in count.items() if times > 1] == []


def test_seen_classes_are_those_that_coco_names() -> None:
    vocabulary = Vocabulary.from_file(LVIS_FILE)
    seen = vocabulary.seen_in(get_vocabulary("openvocab_coco_2017_train_panoptic_with_sem_seg"))
    names = {name for name, flag in zip(vocabulary.names, seen, strict=True) if flag}
    assert {"person", "dog", "bicycle", "pizza", "toothbrush", "zebra"} <= names
    assert names.isdisjoint({"aerosol can", "chandelier", "hookah", "sombrero", "unicycle"})
    assert len(names) == 111  # from a look at the list: changes of either file must be looked at again


def words_at(file: Path, place: int) -> tuple[str, ...]:
    return Vocabulary.from_file(file).classes[place]


def test_words_of_classes_that_were_taken_for_another_thing() -> None:
    # WordNet: football.n.02 is the ball of American football, tights.n.01 are worn from the waist to the feet.
    assert words_at(LVIS_FILE, 465)[:2] == ("football", "American football")
    assert not {"rugby ball", "leotards"} & {*words_at(LVIS_FILE, 465), *words_at(LVIS_FILE, 1088)}
    # A case of PC-459 is that of a computer, and no other class has these words.
    classes = load("pascal_context_459").classes
    assert classes[61][:2] == ("case", "computer case")
    assert [words[0] for words in classes if "computer case" in words] == ["case"]


@pytest.mark.parametrize("name", [*FACTS_OF, "lvis_v1_1203"])
def test_the_header_says_what_the_numbers_of_the_file_are(name: str) -> None:
    header, *lines = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    ids = [int(line.partition(":")[0]) for line in lines if not line.startswith("#")]
    assert ("class index" in header) == (name in ("ade20k_847", "pascal_context_459", "pascal_context_59"))
    # Where the header says class index, they count from 0. Own ids of these are 2978, ..., 1..459, and 2, 9, 18, ...
    assert "class index" not in header or ids == list(range(len(ids)))


def test_all_are_things() -> None:
    assert all(get_vocabulary("openvocab_lvis_v1_val").is_thing)


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
    part = replace(whole, vocabulary=Shipped("ade20k_150", things_only=True))
    flags = published_seen(whole, COCO)
    assert flags is not None
    assert published_seen(part, COCO) == tuple(flags[index] for index in vocabulary.things)
