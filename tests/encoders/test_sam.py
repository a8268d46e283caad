# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""SAM's image encoder, and SAM by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.encoders import fill, random_images, small_sam
from torch.nn import functional as F

from cmpf.encoders import sam as sam_module
from cmpf.encoders import tiny
from cmpf.encoders.sam import FusedAttention, SAMEncoder, build_sam
from cmpf.errors import ModelNameError, WeightsError
from cmpf.weights.files import hash_weights


@pytest.fixture(scope="module")
def encoder() -> SAMEncoder:
    return small_sam()


@pytest.fixture
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny architectures under the published names."""
    monkeypatch.setattr(sam_module, "_architecture", lambda name: fill(tiny.build_tiny_sam()))


def test_sizes_come_from_the_built_model(encoder: SAMEncoder) -> None:
    assert (encoder.input_size, encoder.embed_channels, encoder.name) == (256, 64, "sam/small")


def test_images_of_any_size_are_squashed_to_the_square_input(encoder: SAMEncoder) -> None:
    images = random_images(2, 3, 96, 160)
    square = F.interpolate(images, size=(256, 256), mode="bilinear", align_corners=False)
    with torch.no_grad():
        expected = encoder.sam.image_encoder(square)
    found = encoder(images)
    assert found.shape == (2, 64, 16, 16)
    torch.testing.assert_close(found, expected)


def test_the_embedding_is_that_of_segment_anything(encoder: SAMEncoder) -> None:
    from segment_anything import SamPredictor
    from segment_anything.modeling.image_encoder import Attention

    own = fill(tiny.build_tiny_sam())
    assert type(own.image_encoder.blocks[0].attn) is Attention  # not CMPF's
    image = (random_images(256, 256, 3).abs() * 60).clamp(max=255).to(torch.uint8)
    predictor = SamPredictor(own)
    predictor.set_image(image.numpy())
    normalized = (image.permute(2, 0, 1).float() - own.pixel_mean) / own.pixel_std
    found = encoder(normalized[None])
    torch.testing.assert_close(found, predictor.get_image_embedding(), atol=1e-4, rtol=1e-4)


def test_the_encoder_is_frozen_and_its_hash_is_that_of_segment_anythings_weights(encoder: SAMEncoder) -> None:
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.train().sam.training
    assert set(encoder.weights()) == set(tiny.build_tiny_sam().state_dict())
    assert encoder.weights_hash == hash_weights(fill(tiny.build_tiny_sam()).state_dict())


def test_an_unknown_name_gets_the_nearest_one_and_the_list() -> None:
    with pytest.raises(
        ModelNameError,
        match=r"SAM 'vit-b' is unknown, did you mean vit_b\? What works: vit_b, vit_l, vit_h, vit_t, cmpf_tiny",
    ):
        build_sam(name="vit-b", checkpoint="")


FILES = {
    "vit_b": "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
    "vit_l": "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_l_0b3195.pth",
    "vit_h": "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth",
    "vit_t": "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
}


@pytest.mark.parametrize("name", list(FILES))
def test_a_missing_published_file_says_where_to_get_and_to_put_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        build_sam(name=name, checkpoint="")
    message = str(caught.value)
    assert message.startswith(
        f"SAM {name} is not on this machine and cannot be downloaded (HF_HUB_OFFLINE is set)"
    )
    assert f"save {FILES[name]} as {tmp_path / FILES[name].split('/')[-1]}, or set" in message
    assert "set MODEL.CMPF.SAM.CHECKPOINT (for mask proposals TEST.ENSEMBLE.SAM_CHECKPOINT)" in message
    assert 'to "random" for random weights' in message


@pytest.mark.parametrize(
    ("name", "digits"), [("vit_b", "01ec64"), ("vit_l", "0b3195"), ("vit_h", "4b8939"), ("vit_t", None)]
)
@pytest.mark.usefixtures("small_models")
def test_the_published_file_is_downloaded_and_checked_by_the_digits_in_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, digits: str | None
) -> None:
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path))
    state = small_sam().sam.state_dict()
    state["mask_decoder.iou_token.weight"] += 1
    asked: list[tuple[str, Path, str | None]] = []

    def save(url: str, target: Path, *, sha256: str | None, title: str) -> Path:
        asked.append((url, target, sha256))
        assert title == f"SAM {name}"
        torch.save(state, target)
        return target

    monkeypatch.setattr(sam_module, "download", save)
    encoder = build_sam(name=name, checkpoint="")
    assert asked == [(FILES[name], tmp_path / FILES[name].split("/")[-1], digits)]
    assert torch.equal(encoder.sam.mask_decoder.iou_token.weight, state["mask_decoder.iou_token.weight"])


@pytest.mark.usefixtures("small_models")
def test_the_published_file_in_the_cache_folder_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path))
    state = small_sam().sam.state_dict()
    state["mask_decoder.iou_token.weight"] += 1
    torch.save(state, tmp_path / "sam_vit_b_01ec64.pth")
    encoder = build_sam(name="vit_b", checkpoint="")
    assert encoder.name == "sam/vit_b"
    assert torch.equal(encoder.sam.mask_decoder.iou_token.weight, state["mask_decoder.iou_token.weight"])


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h", "cmpf_tiny"])
def test_every_sam_with_segment_anythings_encoder_gets_the_fused_attention(name: str) -> None:
    with torch.device("meta"):
        blocks = build_sam(name=name, checkpoint="random").sam.image_encoder.blocks
    assert len(blocks) == {"vit_b": 12, "vit_l": 24, "vit_h": 32, "cmpf_tiny": 5}[name]
    assert all(type(block.attn) is FusedAttention for block in blocks)


@pytest.mark.usefixtures("small_models")
def test_random_weights_and_paths_need_no_published_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path / "empty"))
    assert build_sam(name="vit_h", checkpoint="random").name == "sam/vit_h"
    torch.save(small_sam().sam.state_dict(), tmp_path / "own.pth")
    assert build_sam(name="vit_l", checkpoint=str(tmp_path / "own.pth")).embed_channels == 64
    with pytest.raises(WeightsError, match=r"'/no/such\.pth': no such file; give a path, .* or \"random\""):
        build_sam(name="vit_b", checkpoint="/no/such.pth")


@pytest.mark.usefixtures("small_models")
def test_weights_of_another_size_name_the_file(tmp_path: Path) -> None:
    state = small_sam().sam.state_dict()
    del state["mask_decoder.iou_token.weight"]
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth: does not fit the model.*iou_token"):
        build_sam(name="vit_b", checkpoint=str(tmp_path / "other.pth"))


def test_the_tiny_sam_comes_from_cmpfs_own_file_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shipped = tiny.build_tiny_sam()
    monkeypatch.setattr(tiny, "load_tiny_sam", lambda: shipped)
    assert build_sam(name="cmpf_tiny", checkpoint="").sam is shipped
    assert build_sam(name="cmpf_tiny", checkpoint="random").sam is not shipped
