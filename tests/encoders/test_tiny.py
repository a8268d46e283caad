# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The tiny encoders that CMPF ships."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import segment_anything.modeling
import torch
from safetensors.torch import save_file

from cmpf.encoders.tiny import (
    CLIP_NAME,
    CLIP_WEIGHTS,
    SAM_WEIGHTS,
    build_tiny_clip_model,
    build_tiny_sam,
    load_tiny_clip,
    load_tiny_sam,
    tiny_tokenizer,
)
from cmpf.errors import WeightsError
from cmpf.weights.download import ASSETS, checked_asset, expected_hash
from cmpf.weights.reading import load_checked_weights


def test_importing_tiny_registers_nothing_and_opens_nothing() -> None:
    code = (
        "import sys, cmpf.encoders.tiny; print({'open_clip', 'timm', 'segment_anything'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"


NAME = "weights.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one good file of weights and the list of hashes."""
    save_file({"half": torch.tensor([0.5], dtype=torch.float16), "count": torch.tensor([3])}, tmp_path / NAME)
    digest = hashlib.sha256((tmp_path / NAME).read_bytes()).hexdigest()
    (tmp_path / "hashes.json").write_text(json.dumps({NAME: digest}))
    return tmp_path


def test_a_whole_file_is_loaded_as_float32_and_integers_stay(folder: Path) -> None:
    tensors = load_checked_weights(NAME, folder=folder)
    assert tensors["half"].dtype == torch.float32
    assert tensors["half"].item() == 0.5
    assert tensors["count"].dtype == torch.int64


def test_one_changed_byte_is_found_and_the_message_names_file_and_fix(folder: Path) -> None:
    content = bytearray((folder / NAME).read_bytes())
    content[-1] ^= 1
    (folder / NAME).write_bytes(content)
    with pytest.raises(
        WeightsError, match=r"weights\.safetensors: damaged.*It is part of the package: reinstall CMPF"
    ):
        load_checked_weights(NAME, folder=folder)


def test_a_missing_file_is_named_with_the_fix(folder: Path) -> None:
    (folder / NAME).unlink()
    with pytest.raises(
        WeightsError, match=r"weights\.safetensors: not there\. It is part of the package: reinstall CMPF"
    ):
        checked_asset(NAME, folder=folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", "not json", None])
def test_a_broken_list_of_hashes_is_named(folder: Path, content: str | None) -> None:
    if content is None:
        (folder / "hashes.json").unlink()
    else:
        (folder / "hashes.json").write_text(content)
    with pytest.raises(WeightsError, match=r"hashes\.json: no SHA-256 of weights\.safetensors"):
        expected_hash(NAME, folder=folder)


def test_all_shipped_files_are_whole_and_all_assets_under_ten_megabytes() -> None:
    names = json.loads((ASSETS / "hashes.json").read_text())
    assert set(names) == {
        "bpe_2000_merges.txt.gz",
        "cmpf_tiny_clip.safetensors",
        "cmpf_tiny_decoder.safetensors",
        "cmpf_tiny_sam.safetensors",
    }
    assert all(checked_asset(name).is_file() for name in names)
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) < 10_000_000


@pytest.fixture(scope="module")
def model() -> Any:
    return load_tiny_clip()


def test_it_is_open_clips_own_class_with_the_parts_that_the_system_reads(model: Any) -> None:
    assert type(model) is open_clip.CLIP
    trunk = model.visual.trunk
    assert all(hasattr(trunk, part) for part in ("stem", "stages", "norm_pre", "head"))
    assert not model.training


def test_the_four_stages_have_strides_4_8_16_32(model: Any) -> None:
    x, shapes = model.visual.trunk.stem(torch.zeros(1, 3, 96, 64)), []
    for stage in model.visual.trunk.stages:
        x = stage(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(32, 24, 16), (64, 12, 8), (128, 6, 4), (192, 3, 2)]


def test_image_and_text_meet_in_128_dimensions(model: Any) -> None:
    with torch.no_grad():
        assert model.encode_image(torch.zeros(2, 3, 256, 256)).shape == (2, 128)
        assert model.encode_text(tiny_tokenizer()(["a photo of a red circle."])).shape == (1, 128)


def test_open_clips_list_of_models_stays_as_it_is() -> None:
    before = open_clip.list_models()
    build_tiny_clip_model()
    build_tiny_clip_model()
    assert open_clip.list_models() == before
    assert CLIP_NAME not in before


def test_any_word_of_any_language_becomes_tokens_that_the_model_has() -> None:
    tokenizer = tiny_tokenizer()
    texts = ["red circle", "Straßenbahn", "красный круг", "猫", "قطة", "🐈‍⬛", "", "word " * 200]
    tokens = tokenizer(texts)
    assert tokens.shape == (8, 77)
    assert int(tokens.max()) == tokenizer.eot_token_id == build_tiny_clip_model().vocab_size - 1
    # Every text ends, the one of 200 words too; and each says something, but for the empty one: start, end.
    assert ((tokens == tokenizer.eot_token_id).sum(dim=1) == 1).all()
    assert (tokens.argmax(dim=1) > 1).tolist() == [True] * 6 + [False, True]


def test_words_survive_the_shorter_list_of_merges() -> None:
    tokenizer = tiny_tokenizer()
    assert (
        tokenizer.decode(tokenizer.encode("striped star, naïve café")).strip() == "striped star , naïve café"
    )


def test_the_model_knows_red_from_blue_without_any_image(model: Any) -> None:
    with torch.no_grad():
        red, scarlet, sky = model.encode_text(
            tiny_tokenizer()(["red circle", "scarlet circle", "sky"]), normalize=True
        )
    assert float(red @ scarlet) > float(red @ sky)


def test_it_is_segment_anythings_own_class_with_the_sizes_of_its_docstring() -> None:
    sam: Any = build_tiny_sam()
    assert type(sam) is segment_anything.modeling.Sam
    with torch.no_grad():
        embedding = sam.image_encoder(torch.zeros(1, 3, 256, 256))
        points = torch.tensor([[[128.0, 128.0]]]), torch.ones(1, 1)
        sparse, dense = sam.prompt_encoder(points=points, boxes=None, masks=None)
        masks, iou = sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
    assert embedding.shape == (1, 64, 16, 16)
    assert masks.shape == (1, 3, 64, 64)
    assert iou.shape == (1, 3)


def test_the_shipped_weights_fit_and_are_float32() -> None:
    sam = load_tiny_sam()
    assert not sam.training
    assert {parameter.dtype for parameter in sam.parameters()} == {torch.float32}


@pytest.mark.parametrize(("load", "weights"), [(load_tiny_clip, CLIP_WEIGHTS), (load_tiny_sam, SAM_WEIGHTS)])
def test_damaged_weights_are_refused(load: Callable[..., Any], weights: str, tmp_path: Path) -> None:
    shutil.copy(ASSETS / "hashes.json", tmp_path / "hashes.json")
    (tmp_path / weights).write_bytes(b"cut short")
    with pytest.raises(WeightsError, match="damaged"):
        load(folder=tmp_path)
