# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Configurations of published projects in CMPF's keys."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cmpf.cli import main
from cmpf.config import get_cfg
from cmpf.config.keys import KEYS
from cmpf.config.published import TABLE, Dropped, Renamed
from cmpf.errors import ConfigError

DOCS = Path(__file__).resolve().parents[2] / "docs" / "convert_config.md"
FCCLIP = """
MODEL:
  META_ARCHITECTURE: "FCCLIP"
  BACKBONE:
    FREEZE_AT: 0
    NAME: "CLIP"
  SEM_SEG_HEAD:
    NAME: "FCCLIPHead"
    NUM_CLASSES: 133
    CONVS_DIM: 256
    NORM: "GN"
    PIXEL_DECODER_NAME: "MSDeformAttnPixelDecoder"
  MASK_FORMER:
    DEC_LAYERS: 10
    DROPOUT: 0.0
    PRE_NORM: False
    NUM_OBJECT_QUERIES: 250
    TEST:
      OVERLAP_THRESHOLD: 0.8
      PANOPTIC_ON: True
  FC_CLIP:
    CLIP_MODEL_NAME: "convnext_large_d_320"
    CLIP_PRETRAINED_WEIGHTS: "laion2b_s29b_b131k_ft_soup"
    EMBED_DIM: 768
    GEOMETRIC_ENSEMBLE_ALPHA: 0.3
    GEOMETRIC_ENSEMBLE_BETA: 0.7
SOLVER:
  STEPS: (327778, 355092)
  OPTIMIZER: "ADAMW"
  BACKBONE_MULTIPLIER: 0.1
  CLIP_GRADIENTS:
    CLIP_TYPE: "full_model"
    CLIP_VALUE: 0.01
INPUT:
  FORMAT: "RGB"
  DATASET_MAPPER_NAME: "coco_panoptic_lsj"
"""


def converted(tmp_path: Path, text: str) -> Path:
    source, target = tmp_path / "theirs.yaml", tmp_path / "ours.yaml"
    source.write_text(text)
    assert main(["convert-config", str(source), "--output", str(target), "--overwrite"]) == 0
    return target


def error(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> str:
    source = tmp_path / "theirs.yaml"
    source.write_text(text)
    assert main(["convert-config", str(source)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_fc_clips_file_becomes_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = get_cfg(converted(tmp_path, FCCLIP))
    ours = cfg.MODEL.CMPF
    assert (ours.CLIP.NAME, ours.GEOMETRIC_ENSEMBLE_ALPHA, ours.GEOMETRIC_ENSEMBLE_BETA) == (
        "convnext_large_d_320",
        0.3,
        0.7,
    )
    assert ours.SAM.NAME == ""
    assert not ours.QUERY_INJECTOR.ENABLED
    assert cfg.SOLVER.STEPS == (327778, 355092)
    assert cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME == "deformable"
    notes = capsys.readouterr().err
    assert "MODEL.SEM_SEG_HEAD.NUM_CLASSES: left out, follows the dataset" in notes
    assert "SOLVER.OPTIMIZER: left out" in notes
    assert "NUM_OBJECT_QUERIES" not in notes


def test_bases_are_read_and_their_values_replaced(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(FCCLIP)
    text = "_BASE_: base.yaml\nMODEL:\n  FC_CLIP:\n    CLIP_MODEL_NAME: RN50\n    CLIP_PRETRAINED_WEIGHTS: openai\n"
    cfg = get_cfg(converted(tmp_path, text))
    assert (cfg.MODEL.CMPF.CLIP.NAME, cfg.MODEL.CMPF.GEOMETRIC_ENSEMBLE_ALPHA) == ("RN50", 0.3)


@pytest.mark.parametrize(("panoptic", "form"), [(True, "residual"), (False, "post_norm")])
def test_maft_plus_brings_its_options_and_the_form_of_its_task(
    tmp_path: Path, panoptic: bool, form: str
) -> None:
    text = (
        "MODEL:\n  META_ARCHITECTURE: MAFT_Plus\n  rc_weights: 0.1\n  cdt_params: [512, 4]\n"
        "  FC_CLIP: {GEOMETRIC_ENSEMBLE_ALPHA: -1, GEOMETRIC_ENSEMBLE_BETA: -1}\n"
        f"  MASK_FORMER: {{NUM_OBJECT_QUERIES: 100, TEST: {{PANOPTIC_ON: {panoptic}}}}}\n"
    )
    ours = get_cfg(converted(tmp_path, text)).MODEL.CMPF
    assert form == ours.CONTENT_TRANSFER.FORM
    assert (ours.CONTENT_TRANSFER.HEADS, ours.CONTENT_TRANSFER.PUBLISHED_LAYOUT) == (4, True)
    assert (ours.CLIP_LOSSES.REPRESENTATION_WEIGHT, ours.DECODER_CLASSES) == (0.1, False)


def test_ovrcoat_and_mask_adapter_bring_their_options(tmp_path: Path) -> None:
    text = (
        "MODEL:\n  META_ARCHITECTURE: OVRCOAT\n  FC_CLIP: {CLIP_TRUST_WEIGHT: 0.5, DETACH_SEG_HEAD: False}\n"
    )
    cfg = get_cfg(converted(tmp_path, text))
    assert cfg.MODEL.MASK_FORMER.TEST.CLIP_OBJECTNESS == 0.5
    assert (cfg.MODEL.CMPF.CLIP.TRAINED, cfg.MODEL.CMPF.CLIP_LOSSES.DOUBLE_SOFTMAX) == ("trunk", True)
    text = "MODEL:\n  META_ARCHITECTURE: FCCLIP\n  MASK_ADAPTER: {NUM_OUTPUT_MAPS: 8, MASK_THRESHOLD: 0.4}\n"
    ours = get_cfg(converted(tmp_path, text)).MODEL.CMPF
    assert (ours.MASK_EMBEDDING, ours.MASK_ADAPTER.MAPS, ours.MASK_ADAPTER.MASK_THRESHOLD) == (
        "mask_adapter",
        8,
        0.4,
    )


def test_unknown_keys_and_values_without_counterpart_are_all_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "MODEL:\n  META_ARCHITECTURE: FCCLIP\n  MASK_FORMER: {PRE_NORM: True, NUM_OBJECT_QUERYS: 3}\n"
        "  FC_CLIP: {GEOMETRIC_ENSEMBLE_ALPHA: high}\n"
    )
    message = error(tmp_path, text, capsys)
    assert "3 issues in" in message
    assert "PRE_NORM: True has no counterpart here, only False" in message
    assert "NUM_OBJECT_QUERYS: unknown to CMPF and to the table of published keys (nearest: " in message
    assert "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES" in message
    assert "becomes MODEL.CMPF.GEOMETRIC_ENSEMBLE_ALPHA: expected a number from 0 to 1" in message


def test_other_methods_and_absent_files_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = error(tmp_path, "MODEL:\n  META_ARCHITECTURE: ODISE\n", capsys)
    assert 'expected one of FCCLIP, FrozenSeg, MASK_Adapter, MAFT_Plus, OVRCOAT, got "ODISE"' in message
    assert main(["convert-config", str(tmp_path / "none.yaml")]) == 1
    assert "none.yaml: no such file" in capsys.readouterr().err


def test_an_output_is_not_replaced_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = converted(tmp_path, FCCLIP)
    before = target.read_text()
    assert main(["convert-config", str(tmp_path / "theirs.yaml"), "--output", str(target)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert target.read_text() == before


def test_training_with_such_a_file_says_what_to_write(tmp_path: Path) -> None:
    path = tmp_path / "theirs.yaml"
    path.write_text(FCCLIP)
    with pytest.raises(ConfigError) as caught:
        get_cfg(path)
    message = str(caught.value)
    assert "MODEL.FC_CLIP.CLIP_MODEL_NAME: is MODEL.CMPF.CLIP.NAME here (cmpf convert-config FILE" in message
    assert "MODEL.MASK_FORMER.PRE_NORM: has no effect here" in message


def test_masks_of_the_published_tool_are_refused_with_the_command_that_makes_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert-masks", str(tmp_path / "ade20k.pkl")]) == 1
    message = capsys.readouterr().err
    assert "Python pickles" in message
    assert "cmpf save-sam-masks --config-file CONFIG --dataset NAME --output FOLDER" in message


def test_every_key_that_the_table_names_exists() -> None:
    assert {rule.key for rule in TABLE.values() if isinstance(rule, Renamed)} <= set(KEYS)


def test_the_documentation_has_the_table() -> None:
    rows = [
        f"| `{key}` | `{rule.key}` |" if isinstance(rule, Renamed) else f"| `{key}` | {_dropped(rule)} |"
        for key, rule in TABLE.items()
    ]
    text = DOCS.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("| `")] == rows


def _dropped(rule: Dropped) -> str:
    only = f" (only `{yaml.safe_dump(rule.only[0]).split()[0]}`)" if rule.only else ""
    return f"left out: {rule.reason}{only}"
