# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""--protocol published, words and seen classes: what is set, and what may stand beside published figures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.prepared_trees import write_prepared_trees
from helpers.published_words import write_published_words
from helpers.tiny_model import tiny_config, tiny_model

from cmpf.config import Config, get_cfg, with_overrides
from cmpf.data import get_vocabulary
from cmpf.errors import ConfigError, VocabularyError
from cmpf.factory import build_evaluation
from cmpf.factory.encoders import build_precision
from cmpf.factory.evaluation import build_evaluators
from cmpf.factory.protocol import protocol_of, protocol_settings, protocols_of
from cmpf.factory.vocabularies import build_dataset, build_train_vocabulary, seen_of, words_of
from cmpf.shapeworld.writer import WorldSpec, write_dataset

ADE = "openvocab_ade20k_panoptic_val"
LARGE = "coco/cmpf/convnext_large_eval_{}.yaml"


def published(config: str, *overrides: Any) -> Config:
    """A configuration as `--protocol published` makes it; the user's own KEY VALUE go before it."""
    cfg = get_cfg(config, overrides)
    settings = [part for pair in protocol_settings(cfg).items() for part in pair]
    return get_cfg(config, [*settings, *overrides])


def test_words_seen_classes_and_precision_are_those_of_the_papers() -> None:
    cfg = published(LARGE.format("cityscapes"))
    assert (cfg.DATASETS.VOCABULARIES, cfg.DATASETS.SEEN) == ("published", "published")
    assert build_precision(cfg) is torch.float32
    assert cfg.SOLVER.AMP.DTYPE == "fp16"
    assert cfg.TEST.ENSEMBLE.PUBLISHED_POOLING
    protocol = protocol_of(cfg, "openvocab_cityscapes_fine_panoptic_val")
    assert (protocol.label, protocol.differences) == ("published", ())
    assert protocol.as_json() == {
        "protocol": "published",
        "words": "published",
        "seen": "published",
        "precision": "float32",
        "ensemble": False,
        "differences": [],
    }


@pytest.mark.parametrize(
    ("target", "ensemble"),
    [("ade20k", True), ("a847", True), ("pc459", True), ("pas21", False), ("mapillary_vistas", False)],
)
def test_the_ensemble_is_on_where_the_published_table_has_it(target: str, ensemble: bool) -> None:
    assert ensemble == published(LARGE.format(target)).TEST.ENSEMBLE.ENABLED
    assert not published(LARGE.format(target).replace("convnext_large", "r50x64")).TEST.ENSEMBLE.ENABLED


def test_thresholds_and_tasks_are_those_of_the_dataset_whatever_the_file_is_for() -> None:
    cfg = published(LARGE.format("ade20k"), "DATASETS.TEST", "bdd10k_40_panoptic_val")
    test = cfg.MODEL.MASK_FORMER.TEST
    assert test.OBJECT_MASK_THRESHOLD == 0.4
    assert (test.PANOPTIC_ON, test.SEMANTIC_ON, test.INSTANCE_ON) == (True, False, False)
    assert protocol_of(cfg, "bdd10k_40_panoptic_val").label == "published"
    street = published(LARGE.format("ade20k"), "DATASETS.TEST", "openvocab_cityscapes_fine_panoptic_val")
    assert (street.INPUT.MIN_SIZE_TEST, street.INPUT.MAX_SIZE_TEST) == (1024, 2560)


def test_datasets_that_need_different_settings_are_not_evaluated_together() -> None:
    cfg = get_cfg(LARGE.format("ade20k"), ["DATASETS.TEST", ("bdd10k_40_panoptic_val", ADE)])
    with pytest.raises(
        ConfigError, match=rf"bdd10k_40_panoptic_val needs .* and {ADE} .*; evaluate them one after"
    ):
        protocol_settings(cfg)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", 0.7, "OVERLAP_THRESHOLD 0.7 (published 0.8)"),
        ("TEST.DETECTIONS_PER_IMAGE", 300, "TEST.DETECTIONS_PER_IMAGE 300 (published 100)"),
        ("MODEL.CMPF.GEOMETRIC_ENSEMBLE_BETA", 0.9, "GEOMETRIC_ENSEMBLE_BETA 0.9 (published 0.8)"),
        ("TEST.ENSEMBLE.ALPHA", 0.3, "TEST.ENSEMBLE.ALPHA 0.3 (published 0.2)"),
        ("TEST.ENSEMBLE.PUBLISHED_POOLING", False, "PUBLISHED_POOLING False (published True)"),
        ("TEST.ENSEMBLE.SAM_NAME", "vit_b", "SAM_NAME vit_b (published vit_h)"),
        ("MODEL.CMPF.PRECISION", "bf16", "bfloat16 encoders"),
        ("MODEL.CMPF.SAM.KEEP_ASPECT", True, "KEEP_ASPECT True (published False)"),
        ("DATASETS.SEEN", "words", "seen classes by words"),
        ("INPUT.MIN_SIZE_TEST", 512, "test size (512, 1333) (published (800, 1333))"),
    ],
)
def test_whatever_is_changed_is_said(key: str, value: Any, said: str) -> None:
    more = ("INPUT.MAX_SIZE_TEST", 1333) if key == "INPUT.MIN_SIZE_TEST" else ()
    protocol = protocol_of(published(LARGE.format("ade20k"), key, value, *more), ADE)
    assert protocol.label.startswith("not comparable: ")
    assert protocol.label.endswith(said)


def test_the_ensemble_may_be_off_and_its_settings_are_then_nobodys_matter() -> None:
    cfg = published(LARGE.format("ade20k"), "TEST.ENSEMBLE.ENABLED", False, "TEST.ENSEMBLE.ALPHA", 0.3)
    protocol = protocol_of(cfg, ADE)
    assert protocol.label == "published"
    assert not protocol.ensemble


def test_own_words_are_never_comparable() -> None:
    cfg = get_cfg(LARGE.format("ade20k"))
    assert protocol_of(cfg, ADE).label == "own words: not comparable"
    file = with_overrides(published(LARGE.format("ade20k")), {"DATASETS.VOCABULARIES": {ADE: "mine.txt"}})
    assert protocol_of(file, ADE).label == "own words: not comparable"
    assert protocol_of(file, ADE).words == "mine.txt"


def test_a_dataset_without_published_results_says_so() -> None:
    cfg = published("shapes/cmpf_tiny")
    assert protocols_of(cfg)["shapes_val"]["protocol"] == "no published benchmark"
    assert protocols_of(with_overrides(cfg, {"DATASETS.TEST": "one_of_detectron2"})) == {}


VOC = "openvocab_pascal20_sem_seg_val"
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
