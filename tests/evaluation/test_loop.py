# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.distributed_evaluation import one_process, results_of
from helpers.evaluation_data import panoptic_output, panoptic_sample, random_panoptic, semantic_sample

from cmpf.errors import EvaluationError
from cmpf.evaluation import PanopticEvaluator, SemanticEvaluator, evaluate


def judge() -> SemanticEvaluator:
    return SemanticEvaluator(class_names=["a", "b"], ignore_label=255)


def test_two_processes_with_uneven_shares_give_the_numbers_of_one(tmp_path: Path) -> None:
    # Image 2 is in both shares, as a padding sampler would have it; it must count once.
    shares = [[4, 0, 2, 6, 1], [3, 2, 5]]
    torch.multiprocessing.spawn(one_process, args=(tmp_path, shares), nprocs=2)
    results = results_of(tmp_path, [0, 1, 2, 3, 4, 5, 6])
    assert (tmp_path / "results0.txt").read_text() == repr(results)
    assert (tmp_path / "results1.txt").read_text() == repr(results)
    assert list(results["usual"]) == ["panoptic", "sem_seg", "segm", "bbox", "mask_recall"]
    headlines = [("usual", "panoptic", "PQ"), ("usual", "sem_seg", "mIoU"), ("lvis", "segm", "AP")]
    if "cityscapes" in results:  # its package is an extra
        headlines += [("cityscapes", "sem_seg", "mIoU"), ("cityscapes", "segm", "AP")]
    assert all(1 < results[run][task][metric] < 99 for run, task, metric in headlines)


def test_the_model_is_called_without_gradients_and_evaluators_start_afresh(tmp_path: Path) -> None:
    truth = np.zeros((2, 2), np.uint8)
    gradients = []

    def call(batch: list) -> list:
        gradients.append(torch.is_grad_enabled())
        return [{"sem_seg": torch.zeros(2, 2)} for _ in batch]

    evaluator = judge()
    wrong = {"sem_seg": torch.ones(2, 2)}
    evaluator.process([semantic_sample(tmp_path, truth, image_id="old")], [wrong])
    results = evaluate(call, [[semantic_sample(tmp_path, truth)]], [evaluator], progress=False)
    assert gradients == [False]
    assert results["sem_seg"]["pACC"] == 100


def test_progress_is_shown_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(lambda batch: [], [], [judge()], progress=True)
    assert "evaluate" in capsys.readouterr().err
    evaluate(lambda batch: [], [], [judge()], progress=False)
    assert capsys.readouterr().err == ""


def test_a_model_that_drops_an_image_is_an_error(tmp_path: Path) -> None:
    samples = [semantic_sample(tmp_path, np.zeros((1, 1), np.uint8), image_id=i) for i in range(2)]
    with pytest.raises(EvaluationError, match="1 outputs for 2 inputs"):
        evaluate(lambda batch: [{"sem_seg": torch.zeros(1, 1)}], [samples], [judge()], progress=False)


def test_two_evaluators_of_one_task_are_an_error() -> None:
    with pytest.raises(EvaluationError, match="two evaluators report the task 'sem_seg'"):
        evaluate(lambda batch: [], [], [judge(), judge()], progress=False)


@pytest.mark.parametrize("kind", ["panoptic", "semantic"])
def test_memory_stays_flat_over_2000_images(tmp_path: Path, kind: str) -> None:
    ids, segments = random_panoptic(np.random.default_rng(0), size=(32, 32), classes=2, crowds=False)
    sample = {
        **semantic_sample(tmp_path, (ids % 2).astype(np.uint8)),
        **panoptic_sample(tmp_path, ids, segments),
    }
    output = {**panoptic_output(ids, segments), "sem_seg": torch.from_numpy(ids % 2)}
    panoptic = PanopticEvaluator(class_names=["a", "b"], is_thing=[True, False])
    evaluator = panoptic if kind == "panoptic" else judge()
    batches = ([{**sample, "image_id": number}] for number in range(2000))
    held = []

    def call(batch: list) -> list:
        if batch[0]["image_id"] in (100, 1999):
            held.append(tracemalloc.get_traced_memory()[0])
        return [output]

    tracemalloc.start()
    try:
        results = evaluate(call, batches, [evaluator], progress=False)
    finally:
        tracemalloc.stop()
    assert max(value for metrics in results.values() for value in metrics.values()) == 100
    # An image of 32 x 32 ids takes 8 KB; what is kept of an image is a few arrays of a few numbers.
    assert (held[1] - held[0]) / 1899 < 2048
