# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""From files and overrides to one checked configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmpf.config import Config, config_root, get_cfg, resolve, with_overrides
from cmpf.config.keys import Issue, Origin, as_error
from cmpf.errors import ConfigError

SHIPPED = [path for path in sorted(config_root().rglob("*.yaml")) if path.name != "model_zoo.yaml"]


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_without_arguments_the_defaults_come_back():
    assert get_cfg() == Config()


def test_overrides_win_over_the_file_and_the_file_over_its_base(tmp_path):
    write(tmp_path, "base.yaml", "SEED: 1\nNUM_THREADS: 1\nVERSION: 2\n")
    child = write(tmp_path, "child.yaml", "_BASE_: base.yaml\nSEED: 2\nNUM_THREADS: 2\n")
    cfg = get_cfg(child, ["SEED", "3"])
    assert (cfg.SEED, cfg.NUM_THREADS) == (3, 2)


def test_values_from_a_shell_are_read_in_the_type_of_their_key():
    cfg = get_cfg(
        overrides=[
            *("SOLVER.BASE_LR", "1e-3", "SOLVER.STEPS", "(10, 20)", "SOLVER.MAX_ITER", "1e3"),
            *(
                "SOLVER.AMP.ENABLED",
                "false",
                "DATASETS.TEST",
                "shapes_val",
                "MODEL.CMPF.CLIP.PRETRAINED",
                '""',
            ),
            *("OUTPUT_DIR", "2024", "MODEL.MASK_FORMER.CLASS_WEIGHT", "2"),
        ]
    )
    assert cfg.SOLVER.BASE_LR == 1e-3
    assert cfg.SOLVER.STEPS == (10, 20)
    assert cfg.SOLVER.MAX_ITER == 1000
    assert isinstance(cfg.SOLVER.MAX_ITER, int)
    assert cfg.SOLVER.AMP.ENABLED is False
    assert cfg.DATASETS.TEST == ("shapes_val",)
    assert cfg.MODEL.CMPF.CLIP.PRETRAINED == ""
    assert cfg.OUTPUT_DIR == "2024"
    assert isinstance(cfg.MODEL.MASK_FORMER.CLASS_WEIGHT, float)


def test_python_values_work_as_overrides():
    cfg = get_cfg(overrides=["SOLVER.STEPS", [5, 6], "SEED", 7, "DATASETS.TEST", ("a", "b")])
    assert cfg.SOLVER.STEPS == (5, 6)
    assert cfg.SEED == 7
    assert cfg.DATASETS.TEST == ("a", "b")


def test_all_issues_of_all_files_and_overrides_come_in_one_error(tmp_path):
    write(tmp_path, "base.yaml", "SOLVER:\n  BASE_LR: fast\n")
    text = "_BASE_: base.yaml\nMODEL:\n  MASK_FORMR:\n    NHEADS: 8\nSEED: -1\n"
    child = write(tmp_path, "child.yaml", text)
    with pytest.raises(ConfigError) as caught:
        get_cfg(child, ["TEST.ENSEMBLE.ALPHA", "1.5", "SEED"])
    message = str(caught.value)
    assert message.startswith("5 issues: ")
    assert 'base.yaml line 2: SOLVER.BASE_LR: expected a number > 0, got "fast"' in message
    unknown = "child.yaml line 4: MODEL.MASK_FORMR.NHEADS: unknown, did you mean MODEL.MASK_FORMER.NHEADS?"
    assert unknown in message
    assert "child.yaml line 5: SEED: expected a whole number >= 0, below 2^63, got -1" in message
    assert 'override: TEST.ENSEMBLE.ALPHA: expected a number from 0 to 1, got "1.5"' in message
    assert "override: SEED: has no value; overrides are KEY VALUE pairs" in message


def test_a_missing_file_is_reported_together_with_bad_overrides():
    with pytest.raises(ConfigError) as caught:
        get_cfg("no/such.yaml", ["SEEED", "1"])
    assert "no/such.yaml: no such config file" in str(caught.value)
    assert "SEEED: unknown, did you mean SEED?" in str(caught.value)


def test_one_text_in_place_of_a_list_of_overrides_is_refused():
    with pytest.raises(ConfigError, match="must be a list of KEY VALUE pairs"):
        get_cfg(overrides="SEED 1")


def test_a_base_cannot_be_given_as_override():
    with pytest.raises(ConfigError, match="works in files only"):
        get_cfg(overrides=["_BASE_", "x.yaml"])


def test_a_dumped_configuration_reads_back_the_same(tmp_path):
    cfg = get_cfg(overrides=["SOLVER.BASE_LR", "1e-5", "SOLVER.STEPS", "()"])
    assert get_cfg(write(tmp_path, "config.yaml", cfg.dump())) == cfg


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(config_root())))
def test_every_shipped_config_loads(path):
    get_cfg(path)


def test_the_training_config_states_the_published_settings():
    cfg = get_cfg("coco/cmpf/convnext_large_eval_ade20k")
    solver, former = cfg.SOLVER, cfg.MODEL.MASK_FORMER
    assert (solver.IMS_PER_BATCH, solver.MAX_ITER, solver.STEPS) == (16, 368750, (327778, 355092))
    assert (solver.BASE_LR, solver.WEIGHT_DECAY, solver.CLIP_GRADIENTS.CLIP_VALUE) == (1e-4, 0.05, 0.01)
    assert (former.DEC_LAYERS, former.NUM_OBJECT_QUERIES, former.TRAIN_NUM_POINTS) == (10, 250, 12544)
    assert (cfg.MODEL.CMPF.GEOMETRIC_ENSEMBLE_ALPHA, cfg.MODEL.CMPF.GEOMETRIC_ENSEMBLE_BETA) == (0.4, 0.8)


def test_the_five_tiny_configs_differ_by_the_ablated_parts_alone():
    def parts(name: str) -> tuple[bool, ...]:
        cfg = get_cfg(f"shapes/{name}")
        ours = cfg.MODEL.CMPF
        switches = (bool(ours.SAM.NAME), ours.QUERY_INJECTOR.ENABLED, ours.FEATURE_INJECTOR.ENABLED)
        return (*switches, cfg.TEST.ENSEMBLE.ENABLED)

    assert parts("cmpf_tiny") == (True, True, True, True)
    assert parts("no_ensemble") == (True, True, True, False)
    assert parts("query_injector_only") == (True, True, False, False)
    assert parts("feature_injector_only") == (True, False, True, False)
    assert parts("fcclip_tiny") == (False, False, False, False)
    solvers = {str(get_cfg(path).SOLVER) for path in SHIPPED if path.parent.name == "shapes"}
    assert len(solvers) == 1


def test_a_bad_value_does_not_also_trip_the_conditions_it_takes_part_in():
    with pytest.raises(ConfigError) as caught:
        get_cfg(overrides=["INPUT.MIN_SCALE", "big", "INPUT.MAX_SCALE", "0.01"])
    assert str(caught.value).startswith("1 issue")


def test_a_changed_copy_is_checked_and_leaves_the_first_as_it_is():
    cfg = get_cfg("cmpf_tiny", ["SEED", 4])
    changed = with_overrides(cfg, {"MODEL.WEIGHTS": "x.pth", "SOLVER.STEPS": "(1, 2)"})
    assert (changed.MODEL.WEIGHTS, changed.SOLVER.STEPS, changed.SEED) == ("x.pth", (1, 2), 4)
    assert cfg == get_cfg("cmpf_tiny", ["SEED", 4])
    assert with_overrides(changed, {"MODEL.WEIGHTS": "", "SOLVER.STEPS": cfg.SOLVER.STEPS}) == cfg
    with pytest.raises(ConfigError, match=r"2 issues: .*SEEED: unknown.*7 does not divide"):
        with_overrides(cfg, {"SEEED": 1, "MODEL.MASK_FORMER.NHEADS": 7})


def test_each_value_knows_where_it_was_set_last(tmp_path):
    base = write(tmp_path, "base.yaml", "SEED: 1\nNUM_THREADS: 1\nVERSION: 2\n")
    child = write(tmp_path, "child.yaml", "_BASE_: base.yaml\nSEED: 2\nNUM_THREADS: 2\n")
    origins = resolve(child, ["SEED", "3"]).origins
    expected = {"SEED": Origin(), "NUM_THREADS": Origin(child, 3), "VERSION": Origin(base, 3)}
    assert origins == expected


def test_plugins_have_keys_of_their_own(tmp_path):
    text = "MODEL:\n  CMPF:\n    PLUGINS: mine.parts\n    EXTRA:\n      GATE: {START: 0.5, NAMES: [a, b]}\n"
    file = write(tmp_path, "x.yaml", text)
    cfg = get_cfg(file, ["MODEL.CMPF.EXTRA.GATE.START", "1e-4", "MODEL.CMPF.EXTRA.LOSS.ON", "true"])
    extra = cfg.MODEL.CMPF.EXTRA
    assert cfg.MODEL.CMPF.PLUGINS == ("mine.parts",)
    assert (extra.GATE.START, extra.GATE.NAMES, extra.LOSS.ON) == (1e-4, ("a", "b"), True)
    assert get_cfg(write(tmp_path, "again.yaml", cfg.dump())) == cfg
    assert getattr(extra, "ABSENT", 7) == 7
    assert (
        with_overrides(cfg, {"MODEL.CMPF.EXTRA": {"LOSS": {"ON": False}}}).MODEL.CMPF.EXTRA.LOSS.ON is False
    )


def test_texts_of_a_file_stay_texts_in_the_keys_of_plugins(tmp_path):
    file = write(tmp_path, "x.yaml", "MODEL: {CMPF: {EXTRA: {WORD: '3', LIST: ['true', null]}}}\n")
    extra = get_cfg(file).MODEL.CMPF.EXTRA
    assert (extra.WORD, extra.LIST) == ("3", ("true", None))
    assert get_cfg(write(tmp_path, "again.yaml", get_cfg(file).dump())) == get_cfg(file)


@pytest.mark.parametrize("name", ["copy", "_x", "a-b"])
def test_a_key_of_a_plugin_that_cannot_be_read_as_an_attribute_is_refused(name):
    with pytest.raises(ConfigError, match=rf"EXTRA\.{name}: '{name}' cannot be a key"):
        get_cfg(overrides=[f"MODEL.CMPF.EXTRA.{name}", 1])


FILE = Path("/configs/x.yaml")


def test_issues_of_one_file_share_its_name():
    issues = [Issue("A", "bad", Origin(FILE, 3)), Issue("B", "worse", Origin(FILE, 9))]
    assert str(as_error(issues)).endswith("/configs/x.yaml: line 3: A: bad · line 9: B: worse")
    assert str(as_error(issues)).startswith("2 issues in ")


def test_issues_of_several_places_each_name_their_own():
    issues = [Issue("A", "bad", Origin(FILE, 3)), Issue("B", "worse", Origin())]
    assert "x.yaml line 3: A: bad · override: B: worse" in str(as_error(issues))


def test_an_issue_without_place_and_key_is_its_message():
    assert str(as_error([Issue("", "gone", None)])) == "1 issue: gone"
