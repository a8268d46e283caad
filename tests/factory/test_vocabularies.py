# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""DATASETS.VOCABULARIES and DATASETS.SEEN: the words that are looked for, and the classes that count as seen."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.prepared_trees import write_prepared_trees
from helpers.published_words import write_published_words
from helpers.tiny_model import tiny_config, tiny_model

from cmpf.config import get_cfg
from cmpf.data import get_vocabulary
from cmpf.errors import ConfigError, VocabularyError
from cmpf.factory import build_evaluation
from cmpf.factory.evaluation import build_evaluators
from cmpf.factory.vocabularies import build_dataset, build_train_vocabulary, seen_of, words_of
from cmpf.shapeworld.writer import WorldSpec, write_dataset

ADE, VOC = "openvocab_ade20k_panoptic_val", "openvocab_pascal20_sem_seg_val"
COCO = "openvocab_coco_2017_train_panoptic_with_sem_seg"


@pytest.fixture
def papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_published_words(tmp_path / "cache", monkeypatch)


def test_by_default_words_are_cmpfs_own_and_seen_classes_those_of_the_papers() -> None:
    cfg = get_cfg()
    dataset = build_dataset(cfg, ADE)
    assert dataset.vocabulary.classes == get_vocabulary(ADE).classes
    training = build_train_vocabulary(cfg)
    assert sum(dataset.vocabulary.seen_for(training)) == 64
    assert (words_of(cfg, dataset.spec), seen_of(cfg, dataset.spec)) == ("own", "published")
    by_words = build_dataset(get_cfg(None, ["DATASETS.SEEN", "words"]), ADE)
    assert by_words.vocabulary.seen is None
    assert sum(by_words.vocabulary.seen_for(training)) > 64
    assert seen_of(get_cfg(None, ["DATASETS.SEEN", "words"]), dataset.spec) == "words"


def test_after_another_training_words_decide() -> None:
    cfg = get_cfg(None, ["DATASETS.TRAIN", "shapes_train"])
    assert build_dataset(cfg, ADE).vocabulary.seen is None
    assert (
        build_dataset(get_cfg(None, ["DATASETS.TRAIN", "only_detectron2_knows_it"]), ADE).vocabulary.seen
        is None
    )


def test_published_words_are_looked_for_and_trained_with(papers: None) -> None:
    cfg = get_cfg(None, ["DATASETS.VOCABULARIES", "published"])
    vocabulary = build_dataset(cfg, VOC).vocabulary
    assert vocabulary.classes[0] == ("pascal_voc_21 1", "alias 1")
    assert vocabulary.is_thing == get_vocabulary(VOC).is_thing
    assert vocabulary.seen == (True,) * 20
    assert build_train_vocabulary(cfg).classes[132] == ("coco_panoptic 132", "alias 132")
    # By these words, too: both files have the aliases 1 to 20.
    by_words = build_dataset(
        get_cfg(None, ["DATASETS.VOCABULARIES", "published", "DATASETS.SEEN", "words"]), VOC
    )
    assert by_words.vocabulary.seen_for(build_train_vocabulary(cfg)) == (True,) * 20
    assert words_of(cfg, build_dataset(cfg, "shapes_val").spec) == "own"


def test_published_words_that_are_not_there_say_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path))
    with pytest.raises(
        VocabularyError, match=r"ade20k_150 are not on this machine\. Get all .*vocabularies --fetch"
    ):
        build_dataset(get_cfg(None, ["DATASETS.VOCABULARIES", "published"]), ADE)


def test_words_of_a_file_are_for_the_dataset_that_it_is_given_for(tmp_path: Path) -> None:
    file = tmp_path / "voc.txt"
    file.write_text("\n".join(f"{index}:thing {index}" for index in range(20)))
    cfg = get_cfg(None, ["DATASETS.VOCABULARIES", {VOC: str(file)}])
    assert build_dataset(cfg, VOC).vocabulary.classes[3] == ("thing 3",)
    assert build_dataset(cfg, ADE).vocabulary.classes == get_vocabulary(ADE).classes
    assert words_of(cfg, build_dataset(cfg, VOC).spec) == str(file)
    file.write_text("1:only\n2:two")
    with pytest.raises(
        VocabularyError, match=rf"{VOC} has 20 classes and {file} 2; other words need one line"
    ):
        build_dataset(cfg, VOC)


def test_the_mapping_is_written_in_a_file_as_a_section_or_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("DATASETS:\n  VOCABULARIES:\n    shapes_val: a.txt\n    file:my.set.yaml: b.txt\n")
    cfg = get_cfg(file)
    assert cfg.DATASETS.VOCABULARIES == {"shapes_val": "a.txt", "file:my.set.yaml": "b.txt"}
    file.write_text(cfg.dump())
    assert get_cfg(file) == cfg
    assert get_cfg(file, ["DATASETS.VOCABULARIES", "{'shapes_val': 'c.txt'}"]).DATASETS.VOCABULARIES == {
        "shapes_val": "c.txt"
    }
    for wrong in ("papers", "{}", "{'shapes_val': 3}", 7):
        with pytest.raises(
            ConfigError,
            match=r"DATASETS.VOCABULARIES: expected published, own, or \{dataset: vocabulary file\}",
        ):
            get_cfg(None, ["DATASETS.VOCABULARIES", wrong])


def test_evaluators_and_the_model_are_told_the_same_seen_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, papers: None
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_prepared_trees(tmp_path)
    cfg = get_cfg(None, ["DATASETS.VOCABULARIES", "published"])
    told: dict[str, Any] = {}
    monkeypatch.setattr("cmpf.factory.evaluation.SemanticEvaluator", lambda **options: told.update(options))
    model: Any = SimpleNamespace(train_vocabulary=get_vocabulary("shapes_train"))
    dataset = build_dataset(cfg, VOC)
    with pytest.raises(ConfigError, match="nothing to evaluate"):  # what was made in its place is None
        build_evaluators(cfg, model, dataset)
    assert told["class_names"] == dataset.vocabulary.names
    assert tuple(told["seen"]) == (True,) * 20  # by words none would be: the model knows shapes alone
    assert len(dataset.samples_for("semantic")) == 2  # files are read as before


def test_other_words_do_not_change_how_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ShapeWorld's categories are found by name in its JSON files; what is looked for may have other names."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_dataset(tmp_path / "shapeworld", WorldSpec(train=1, val=2), progress=False)
    own = get_vocabulary("shapes_val")
    file = tmp_path / "words.txt"
    renamed = [f"{index}:class {index},{words[0]}" for index, words in enumerate(own.classes)]
    file.write_text("\n".join(renamed))
    quick = ["DATALOADER.NUM_WORKERS", 0, "TEST.ENSEMBLE.ENABLED", False]
    cfg = tiny_config(overrides=[*quick, "DATASETS.VOCABULARIES", {"shapes_val": str(file)}])
    results = build_evaluation(cfg, tiny_model())()["shapes_val"]
    assert any(metric == "PQ-class 0" for metric in results["panoptic"])
