# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from helpers.tiny_model import tiny_config
from huggingface_hub import constants

from cmpf.errors import ModelNameError, WeightsError
from cmpf.weights.hub import FOLDER_CONFIG, FOLDER_DATASET, FOLDER_WEIGHTS, HUB_FILES, find_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def model_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / FOLDER_CONFIG).write_text(tiny_config("no_ensemble").dump())
    (folder / FOLDER_WEIGHTS).touch()
    return folder


def cached_repository(cache: Path, *, repository: str) -> Path:
    """The Hub's cache after a download of a repository."""
    root = cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    return model_folder(root / "snapshots" / COMMIT)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_zoo_name_goes_before_a_folder_of_this_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_folder(tmp_path / "cmpf_tiny")
    monkeypatch.chdir(tmp_path)
    config, overrides, weights = find_model("cmpf_tiny", need_weights=True)
    assert (config.name, overrides) == ("cmpf_tiny.yaml", [])
    assert weights is not None
    assert weights.name == "cmpf_tiny_decoder.safetensors"


def test_a_folder_has_its_config_and_weights(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "run")
    expected = (folder / FOLDER_CONFIG, [], folder / FOLDER_WEIGHTS)
    assert find_model(str(folder), need_weights=True) == expected
    (folder / FOLDER_WEIGHTS).unlink()
    assert find_model(str(folder), need_weights=False) == (folder / FOLDER_CONFIG, [], None)


def test_a_folder_brings_the_words_of_a_dataset_of_its_own(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "run")
    (folder / FOLDER_DATASET).touch()
    _, overrides, _ = find_model(str(folder), need_weights=True)
    assert overrides == ["DATASETS.TRAIN", [f"file:{folder / FOLDER_DATASET}"]]


def test_a_repository_that_was_downloaded_needs_no_network(hub_cache: Path) -> None:
    folder = cached_repository(hub_cache, repository="some-one/my.model")
    for name in ("some-one/my.model", f"some-one/my.model@{COMMIT}"):
        config, _, weights = find_model(name, need_weights=True)
        assert (config, weights) == (folder / FOLDER_CONFIG, folder / FOLDER_WEIGHTS)


def test_only_the_files_of_a_model_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, calls = model_folder(tmp_path / "run"), []

    def download(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append((repository, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_model("user/repo@v1.0", need_weights=True)[2] == folder / FOLDER_WEIGHTS
    assert calls == [("user/repo", "v1.0", list(HUB_FILES))]
    assert not any(name.endswith((".py", ".bin", ".pth", ".pt")) for name in HUB_FILES)


def test_a_repository_without_network_says_what_to_do(hub_cache: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        find_model("nobody/nothing", need_weights=True)
    for part in ("https://huggingface.co/nobody/nothing", "HF_HUB_OFFLINE is set", "copy config.yaml and"):
        assert part in str(caught.value)


def test_a_repository_of_something_else_is_named(hub_cache: Path) -> None:
    (cached_repository(hub_cache, repository="user/repo") / FOLDER_CONFIG).unlink()
    with pytest.raises(
        ModelNameError, match=r"huggingface\.co/user/repo holds no config\.yaml; is it a CMPF"
    ):
        find_model("user/repo", need_weights=True)


@pytest.mark.parametrize("name", ["-bad-/x--y", "user/..", "a..b/c"])
def test_impossible_repositories_are_refused(hub_cache: Path, name: str) -> None:
    with pytest.raises((ModelNameError, WeightsError), match="neither a folder here nor a repository"):
        find_model(name, need_weights=True)


@pytest.mark.parametrize("name", ["cmpf_tny", "a/b/c", "", "user/repo@"])
def test_other_names_list_what_a_model_may_be(name: str) -> None:
    with pytest.raises(ModelNameError, match=r"is unknown.*\.yaml config.*a folder with.*USER/REPOSITORY"):
        find_model(name, need_weights=True)
