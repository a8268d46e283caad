# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import cmpf
from cmpf.cli import doctor, main
from cmpf.cli.doctor import FAILED, MISSING, OK, Check
from cmpf.data.datasets.catalog import locate_dataset
from cmpf.encoders.clip_factory import _weights_file
from cmpf.errors import WeightsError
from cmpf.modeling.deformable import triton

ROOT = Path(__file__).resolve().parents[2]
CLIP, TAG = doctor.USED_CLIPS[0]
HUB_FOLDER = "models--laion--CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"


def by_name(checks: Iterable[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def setup_values() -> dict[str, Any]:
    """The literal keyword arguments and lists of setup.py."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    lists = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.List)
    }
    call = next(
        node.value for node in tree.body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    )
    extras = next(word.value for word in call.keywords if word.arg == "extras_require")
    assert isinstance(extras, ast.Dict)
    found = {
        key.value: ast.literal_eval(value)
        for key, value in zip(extras.keys, extras.values, strict=True)
        if isinstance(key, ast.Constant) and not isinstance(value, ast.Name)
    }
    return {"core": lists["CORE"], "extras": found}


def test_the_packages_and_oldest_versions_are_those_of_setup() -> None:
    assert [f"{package}>={oldest}" for package, oldest in doctor.CORE.items()] == setup_values()["core"]


@pytest.mark.parametrize(
    "part", [part for part in doctor.OPTIONAL if part.extra], ids=lambda part: part.extra
)
def test_the_command_of_an_optional_part_installs_its_packages(part: doctor.OptionalPart) -> None:
    extras = setup_values()["extras"]
    assert part.extra in extras, f"setup.py has no extra {part.extra}"
    packages = {re.split(r"[<>=!~\[]", requirement)[0] for requirement in extras[part.extra]}
    assert set(part.modules) <= packages
    assert part.fix == f'pip install "cmpf[{part.extra}]"'


def test_a_package_that_is_missing_or_too_old_fails_with_the_command_that_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 1.0.16 < 1.0.100 and 1.9 < 1.11 as numbers; what follows them (+cpu, rc1) is none.
    found = doctor.CORE | {"torch": "2.15.0+cpu", "timm": "1.0.100rc1", "scipy": "1.9.3", "numpy": ""}
    monkeypatch.setattr(doctor, "_version", found.__getitem__)
    checks = by_name(doctor.versions())
    assert list(checks)[:2] == ["cmpf", "python"]
    assert [name for name, check in checks.items() if check.state == FAILED] == ["numpy", "scipy"]
    assert (checks["numpy"].detail, checks["numpy"].fix) == ("not installed", 'pip install "numpy>=1.26"')
    assert checks["scipy"].detail == "1.9.3, but 1.11 or newer is needed"
    assert (checks["torch"].state, checks["torch"].detail) == (OK, "2.15.0+cpu")


def test_without_cuda_the_report_says_what_models_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    checks = by_name(doctor.devices())
    assert (checks["cpu"].state, checks["cuda"].state) == (OK, MISSING)
    assert checks["cuda"].detail == "no device (PyTorch is built for CPUs); models run on the CPU"


@pytest.mark.parametrize(
    ("problem", "state", "detail"),
    [(None, OK, "Triton kernels"), ("no compiler", MISSING, "PyTorch's operators (no compiler)")],
)
def test_a_gpu_is_named_with_what_computes_its_deformable_attention(
    problem: str | None, state: str, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = SimpleNamespace(name="Card", total_memory=24 * 2**30, major=8, minor=6)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    monkeypatch.setattr(triton, "triton_issue", lambda device: problem)
    checks = by_name(doctor.devices())
    assert checks["cuda:0"].detail.startswith("Card, 24 GiB, compute capability 8.6, CUDA")
    assert (checks["deformable attention"].state, checks["deformable attention"].detail) == (state, detail)


def test_a_package_counts_as_installed_but_a_folder_of_its_name_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_checkout").mkdir()
    (tmp_path / "some_package.py").write_text("raise RuntimeError('nothing is imported')")
    parts = tuple(
        doctor.OptionalPart(name, "trial", {name: name})
        for name in ("some_checkout", "some_package", "absent")
    )
    monkeypatch.setattr(doctor, "OPTIONAL", parts)
    monkeypatch.syspath_prepend(str(tmp_path))
    checks = by_name(doctor.optional_parts())
    assert {name: check.state for name, check in checks.items()} == {
        "some_checkout": MISSING, "some_package": OK, "absent": MISSING,
    }  # fmt: skip
    assert checks["absent"].fix == 'pip install "cmpf[absent]"'


def write(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def hub_file(cache: Path) -> Path:
    """A file as the Hub's client keeps it."""
    folder = cache / "hub" / HUB_FOLDER
    write(folder / "refs/main", 0).write_text("abc")
    return write(folder / "snapshots/abc/open_clip_model.safetensors", 1_500_000)


def own_file(cache: Path) -> Path:
    return write(cache / f"clip_{CLIP}_{TAG}.safetensors", 1_500_000)


@pytest.mark.parametrize("place", [hub_file, own_file])
def test_clip_weights_are_found_where_the_model_finds_them(
    place: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path))
    path = place(tmp_path)
    checks = by_name(doctor.weights())
    assert checks["folder"].detail == str(tmp_path)
    found = checks[f"CLIP {CLIP} {TAG}"]
    assert (found.state, found.detail) == (OK, f"1.5 MB in {path}")
    assert _weights_file(CLIP, TAG) == path
    other = checks["CLIP RN50x64 openai"]
    assert other.state == MISSING
    assert f"as {tmp_path}/clip_RN50x64_openai.safetensors" in other.fix
    assert len([name for name in checks if name.startswith("CLIP")]) == 2


def test_sam_files_are_found_and_unfinished_downloads_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path))
    write(tmp_path / "sam_vit_b_01ec64.pth", 2_000_000)
    write(tmp_path / "sam_vit_h_4b8939.pth.part", 300_000)
    checks = by_name(doctor.weights())
    assert checks["SAM vit_b"] == Check(
        "weights", "SAM vit_b", OK, f"2.0 MB in {tmp_path}/sam_vit_b_01ec64.pth"
    )
    assert checks["SAM vit_h"].detail.startswith("download unfinished: 0.3 MB")
    assert checks["SAM vit_l"].detail == "not in the cache"
    assert "sam_vit_l_0b3195.pth as" in checks["SAM vit_l"].fix


def test_datasets_are_whole_or_say_how_much_of_them_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    whole, part = locate_dataset("shapes_val"), locate_dataset("openvocab_lvis_v1_val")
    for path in whole.spec.paths:
        (whole.folder / path).mkdir(parents=True)
    (part.folder / part.spec.paths[0]).mkdir(parents=True)
    checks = by_name(doctor.datasets())
    assert checks["DETECTRON2_DATASETS"] == Check("datasets", "DETECTRON2_DATASETS", OK, str(tmp_path))
    assert (checks["shapes_val"].state, checks["shapes_val"].detail) == (OK, str(whole.folder))
    some = checks["openvocab_lvis_v1_val"]
    assert some.state == MISSING
    assert some.detail == f"1 of {len(part.spec.paths)} paths in {part.folder}"
    assert "prepare lvis" in some.fix
    assert checks["openvocab_ade20k_panoptic_val"].detail.startswith("0 of ")


def test_a_root_that_is_no_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "gone"))
    root = by_name(doctor.datasets())["DETECTRON2_DATASETS"]
    assert (root.state, root.detail) == (MISSING, f"{tmp_path}/gone: no such folder")
    monkeypatch.delenv("DETECTRON2_DATASETS")
    monkeypatch.chdir(tmp_path)
    root = by_name(doctor.datasets())["DETECTRON2_DATASETS"]
    assert root.detail == f"{tmp_path}/datasets: no such folder (DETECTRON2_DATASETS is not set)"


def test_the_self_test_segments_a_generated_image() -> None:
    (check,) = doctor.self_test()
    assert check.state == OK
    found = re.match(
        r"found (\d+) of 6 segments in a 256 x 256 image on \S+ in \d+\.\d\d s \(model", check.detail
    )
    assert found is not None, check.detail
    assert int(found[1]) >= 1


def test_a_model_that_finds_nothing_fails_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(image: Any, words: list[str]) -> SimpleNamespace:
        assert image.shape == (256, 256, 3)
        return SimpleNamespace(segments=())

    model = torch.nn.Linear(1, 1)
    monkeypatch.setattr(cmpf, "load", lambda name: SimpleNamespace(predict=predict, model=model))
    (check,) = doctor.self_test()
    assert (check.state, check.detail.split(" of ")[0]) == (FAILED, "found 0")


def test_a_group_that_breaks_is_a_failed_check_and_the_others_are_still_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(name: str) -> Any:
        raise WeightsError("cmpf_tiny_sam.safetensors:\n  damaged")

    monkeypatch.setattr(cmpf, "load", broken)
    checks = doctor.report()
    assert list(dict.fromkeys(check.group for check in checks)) == list(doctor.GROUPS)
    assert checks[-1] == Check(
        "self-test", "error", FAILED, "WeightsError: cmpf_tiny_sam.safetensors: damaged"
    )
    assert all(check.fix for check in checks if check.group == "versions" and check.state == FAILED)


WELL = [
    Check("versions", "cmpf", OK, "0.1.0"),
    Check("versions", "torch", OK, "2.15.0"),
    Check("optional parts", "web", MISSING, "gradio (cmpf serve)", 'pip install "cmpf[web]"'),
    Check("datasets", "DETECTRON2_DATASETS", OK, "/data"),
    Check("datasets", "shapes_val", OK, "/data/shapeworld"),
    Check("datasets", "a_part", MISSING, "1 of 3 paths in /data/a", "python datasets/prepare_a.py"),
    Check("datasets", "absent", MISSING, "0 of 3 paths in /data/b", "python datasets/prepare_b.py"),
    Check("datasets", "gone", MISSING, "0 of 2 paths in /data/c", "python datasets/prepare_c.py"),
    Check("self-test", "cmpf_tiny", OK, "6 segments"),
]
PRINTED = """\
versions
  ok       cmpf   0.1.0
  ok       torch  2.15.0

optional parts
  missing  web  gradio (cmpf serve)
           -> pip install "cmpf[web]"

datasets
  ok       DETECTRON2_DATASETS  /data
  ok       shapes_val           /data/shapeworld
  missing  a_part               1 of 3 paths in /data/a
           -> python datasets/prepare_a.py
  missing  others               2 more datasets; cmpf datasets lists all, cmpf datasets NAME shows how to get one

self-test
  ok       cmpf_tiny  6 segments

All checks passed. Missing items are optional.
"""


def test_the_report_is_aligned_names_every_fix_and_puts_absent_datasets_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "report", lambda: WELL)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out == PRINTED


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_failed_self_test_is_exit_code_1(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        doctor, "report", lambda: [*WELL[:-1], Check("self-test", "cmpf_tiny", FAILED, "0 segments")]
    )
    assert main(["doctor", *options]) == 1
    said = capsys.readouterr().out
    if options:
        assert json.loads(said)["ok"] is False
    else:
        assert said.endswith("  failed   cmpf_tiny  0 segments\n\nFailed: cmpf_tiny (self-test)\n")


def test_json_holds_every_check_with_its_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "report", lambda: WELL)
    assert main(["doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is True
    assert [Check(**check) for check in said["checks"]] == WELL
