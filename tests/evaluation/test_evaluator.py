# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The run over a dataset, and the tables of its results."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.distributed_evaluation import one_process, results_of
from helpers.evaluation_data import panoptic_output, panoptic_sample, random_panoptic, semantic_sample

from cmpf.errors import EvaluationError
from cmpf.evaluation import (
    PanopticEvaluator,
    SemanticEvaluator,
    clear_results,
    evaluate,
    format_results,
    read_results,
    save_results,
    verify_results,
)
from cmpf.evaluation.evaluator import (
    class_flags,
    gather_by_image,
    mean_over,
    paired,
    percent_ratio,
    required,
    seen_groups,
    to_array,
)


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
    batches = [[semantic_sample(tmp_path, np.zeros((2, 2), np.uint8))]]
    answer = [{"sem_seg": torch.zeros(2, 2)}]
    evaluate(lambda batch: answer, batches, [judge()], progress=True)
    assert "evaluate" in capsys.readouterr().err
    evaluate(lambda batch: answer, batches, [judge()], progress=False)
    assert capsys.readouterr().err == ""


def test_no_image_at_all_is_no_result() -> None:
    with pytest.raises(EvaluationError, match="no image was evaluated; check how the dataset was prepared"):
        evaluate(lambda batch: [], [], [judge()], progress=False)


def test_a_model_that_drops_an_image_is_an_error(tmp_path: Path) -> None:
    samples = [semantic_sample(tmp_path, np.zeros((1, 1), np.uint8), image_id=i) for i in range(2)]
    with pytest.raises(EvaluationError, match="1 outputs for 2 inputs"):
        evaluate(lambda batch: [{"sem_seg": torch.zeros(1, 1)}], [samples], [judge()], progress=False)


def test_two_evaluators_of_one_task_are_an_error(tmp_path: Path) -> None:
    batches = [[semantic_sample(tmp_path, np.zeros((2, 2), np.uint8))]]
    with pytest.raises(EvaluationError, match="two evaluators report the task 'sem_seg'"):
        evaluate(lambda batch: [{"sem_seg": torch.zeros(2, 2)}], batches, [judge(), judge()], progress=False)


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


def test_alone_the_statistics_come_back_sorted_numbers_before_words() -> None:
    assert list(gather_by_image({"b": 1, 10: 2, "a": 3, 9: 4}).items()) == [
        (9, 4),
        (10, 2),
        ("a", 3),
        ("b", 1),
    ]


def test_nothing_gathers_to_nothing() -> None:
    assert gather_by_image({}) == {}


def test_tensors_and_arrays_become_arrays() -> None:
    assert to_array(torch.ones(2, requires_grad=True)).tolist() == [1, 1]
    assert to_array(np.ones(2)).tolist() == [1, 1]


def test_outputs_must_pair_with_inputs() -> None:
    with pytest.raises(EvaluationError, match="1 outputs for 2 inputs"):
        list(paired([{"file_name": "a"}, {"file_name": "b"}], [{}], "sem_seg"))


def test_a_missing_output_names_the_switch() -> None:
    output = {"sem_seg": torch.zeros(1, 1)}
    with pytest.raises(EvaluationError, match=r"a\.jpg: the model returned no panoptic_seg.*PANOPTIC_ON"):
        list(paired([{"file_name": "a.jpg"}], [output], "panoptic_seg"))


def test_a_missing_field_is_named() -> None:
    with pytest.raises(EvaluationError, match="image 7: the sample has no 'pan_seg_file_name'"):
        required({"image_id": 7}, "pan_seg_file_name")


def test_a_mean_over_nothing_is_nan() -> None:
    assert math.isnan(mean_over(np.array([1.0, 2.0]), np.array([False, False])))
    assert mean_over(np.array([1.0, 2.0, np.nan]), np.array([True, True, False])) == 1.5


def test_a_ratio_over_zero_is_nan() -> None:
    ratio = percent_ratio(np.array([1.0, 0.0]), np.array([4.0, 0.0]))
    assert ratio[0] == 25
    assert math.isnan(ratio[1])


def test_groups_are_all_seen_and_unseen() -> None:
    groups = {prefix: flags.tolist() for prefix, flags in seen_groups([True, False], 2)}
    assert groups == {"": [True, True], "S_": [True, False], "U_": [False, True]}
    assert [prefix for prefix, _ in seen_groups(None, 2)] == [""]


def test_flags_of_another_length_are_refused() -> None:
    with pytest.raises(EvaluationError, match="seen has 1 entries for 2 class names"):
        class_flags("seen", [True], 2)


RESULTS = {
    "shapes_val": {
        "panoptic": {"PQ": 44.126, "U_PQ": math.nan, "PQ-red circle": 50.0},
        "sem_seg": {"mIoU": 42.0},
    },
    "shapes_hard_val": {"panoptic": {"PQ": 8.5, "U_PQ": 7.0}},
}


def test_headlines_of_all_datasets_come_first_and_then_a_table_a_task() -> None:
    expected = (
        "dataset             PQ  U_PQ   mIoU\n"
        "-----------------------------------\n"
        "shapes_val       44.13     -  42.00\n"
        "shapes_hard_val   8.50  7.00      -\n"
        "\n"
        "panoptic            PQ  U_PQ\n"
        "----------------------------\n"
        "shapes_val       44.13     -\n"
        "shapes_hard_val   8.50  7.00\n"
        "\n"
        "sem_seg      mIoU\n"
        "-----------------\n"
        "shapes_val  42.00\n"
    )
    assert format_results(RESULTS) == expected


def test_published_values_stand_below_with_the_difference() -> None:
    published = {"shapes_val": {"panoptic/PQ": 45.0, "segm/AP": 9.0}, "elsewhere": {"panoptic/PQ": 1.0}}
    lines = format_results(RESULTS, published=published).splitlines()
    assert lines[0].split() == ["dataset", "PQ", "U_PQ", "mIoU"]  # nobody measured AP here
    assert [line.split() for line in lines[3:5]] == [
        ["published", "45.00", "-", "-"],
        ["difference", "-0.87", "-", "-"],
    ]
    assert sum("published" in line for line in lines) == 1


def test_a_published_metric_gets_a_column_of_its_own() -> None:
    results = {"a": {"panoptic": {"PQ": 1.0, "SQ": 80.0}}}
    lines = format_results(results, published={"a": {"panoptic/SQ": 81.0}}).splitlines()
    assert [line.split() for line in lines[:5]][::2] == [
        ["dataset", "PQ", "SQ"],
        ["a", "1.00", "80.00"],
        ["difference", "-", "-1.00"],
    ]


def test_columns_of_one_name_keep_their_task() -> None:
    results = {"a": {"segm": {"AP": 30.0}, "bbox": {"AP": 32.0}}}
    lines = format_results(results, published={"a": {"bbox/AP": 31.0}}).splitlines()
    assert lines[0].split() == ["dataset", "segm/AP", "bbox/AP"]
    assert lines[2].split() == ["a", "30.00", "32.00"]


def test_tasks_without_a_headline_have_their_own_table_only() -> None:
    assert format_results({"a": {"bbox": {"AP": 3.0}}}).splitlines()[0].split() == ["bbox", "AP"]


def test_markdown_has_pipes() -> None:
    table = format_results({"a|b": {"sem_seg": {"mACC": 1.0}}}, markdown=True)
    assert table == "| sem_seg | mACC |\n|---|---:|\n| a\\|b | 1.00 |\n"


def test_nothing_to_print_is_said() -> None:
    assert format_results({}) == "no results\n"


def test_files_hold_everything_and_undefined_values_are_null(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    save_results(RESULTS, folder)
    saved = json.loads((folder / "results.json").read_text())
    assert saved["shapes_val"]["panoptic"] == {"PQ": 44.126, "U_PQ": None, "PQ-red circle": 50.0}
    assert "| shapes_hard_val | 8.50 | 7.00 | - |" in (folder / "results.md").read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["results.json", "results.md"]


def test_saving_again_replaces_both_files(tmp_path: Path) -> None:
    save_results(RESULTS, tmp_path)
    save_results({"other": {"sem_seg": {"mIoU": 1.0}}}, tmp_path)
    assert list(json.loads((tmp_path / "results.json").read_text())) == ["other"]
    assert "shapes" not in (tmp_path / "results.md").read_text()


def test_a_failure_between_the_two_files_leaves_no_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(results: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr("cmpf.evaluation.results.json_text", full)
    with pytest.raises(OSError, match="disk full"):
        save_results(RESULTS, tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_clearing_removes_both_files_and_nothing_else(tmp_path: Path) -> None:
    save_results(RESULTS, tmp_path)
    (tmp_path / "log.txt").write_text("kept")
    clear_results(tmp_path)
    clear_results(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["log.txt"]


MEASURED = {"a": {"panoptic": {"PQ": 40.0, "SQ": math.nan}}, "b": {"sem_seg": {"mIoU": 30.0}}}


def test_expected_results_within_their_tolerance_pass() -> None:
    # |40 - 40.5| = 0.5; the task of another dataset than the first is written with its name
    verify_results(MEASURED, [("panoptic", "PQ", 40.5, 0.5), ("b/sem_seg", "mIoU", 30.0, 0.0)])
    verify_results(MEASURED, [])


def test_every_other_result_is_named() -> None:
    expected = [("panoptic", "PQ", 40.6, 0.5), ("panoptic", "SQ", 1.0, 5.0), ("sem_seg", "mIoU", 30.0, 1.0)]
    with pytest.raises(EvaluationError) as caught:
        verify_results(MEASURED, expected)
    assert str(caught.value) == (
        "the results are not those of TEST.EXPECTED_RESULTS: panoptic/PQ is 40.0000, not 40.6 ± 0.5; "
        "panoptic/SQ is nan, not 1 ± 5; sem_seg/mIoU was not measured"
    )


def test_published_figures_stand_beside_results_of_the_published_protocol_alone(tmp_path: Path) -> None:
    results = {"ade": {"panoptic": {"PQ": 25.0}}, "voc": {"sem_seg": {"mIoU": 80.0}}}
    published = {"ade": {"panoptic/PQ": 24.5}, "voc": {"sem_seg/mIoU": 81.0}}
    protocols = {"ade": {"protocol": "published"}, "voc": {"protocol": "own words: not comparable"}}
    table = format_results(results, published=published, protocols=protocols)
    assert "24.50" in table
    assert "81.00" not in table
    assert table.count("difference") == 1
    assert any(line.split() == ["ade", "published"] for line in table.splitlines())
    assert ["voc", "own words: not comparable"] in [line.split(maxsplit=1) for line in table.splitlines()]
    save_results(results, tmp_path, published=published, protocols=protocols)
    written = (tmp_path / "results.md").read_text()
    assert "| voc | own words: not comparable |" in written
    assert "24.50" in written
    assert read_results(tmp_path / "results.json") == (results, protocols)
