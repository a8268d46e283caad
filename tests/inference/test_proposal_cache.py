# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The disk cache of SAM's masks."""

from __future__ import annotations

import io
import json
import pickle
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmpf.encoders.sam_proposals import Proposals
from cmpf.errors import EvaluationError, ImageError
from cmpf.inference import proposal_cache
from cmpf.inference.proposal_cache import ProposalCache

SETTINGS = {"TEST.ENSEMBLE.SAM_NAME": "vit_h", "TEST.ENSEMBLE.MIN_AREA": 100, "SAM weights": "abc"}
SIZE = (5, 7)


def cache(folder: Path, **changes: Any) -> ProposalCache:
    return ProposalCache(
        folder=folder, settings={**SETTINGS, **changes}, command="cmpf save-sam-masks --output X"
    )


def proposals(masks: int = 3, size: tuple[int, int] = SIZE) -> Proposals:
    generator = torch.Generator().manual_seed(0)
    return Proposals(
        logits=20 * torch.randn(masks, 4, 4, generator=generator),
        padded=(32, 64),
        unpadded=size,
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "images" / "a.jpg"
    path.parent.mkdir()
    path.write_bytes(b"the bytes of an image")
    return path


@pytest.mark.parametrize("masks", [3, 1, 0])
def test_what_was_stored_comes_back_bit_for_bit(tmp_path: Path, image: Path, masks: int) -> None:
    stored = proposals(masks)
    if masks:
        stored.logits[0, 0] = torch.tensor([0.0, -0.0, 1e-42, -3e38])  # 1e-42 is a denormal
    cache(tmp_path).store(image, stored)
    found = cache(tmp_path).load(image, input_size=SIZE)
    assert found.logits.shape == (masks, 4, 4)
    assert found.logits.numpy().tobytes() == stored.logits.numpy().tobytes()
    assert (found.padded, found.unpadded) == ((32, 64), SIZE)


def test_images_of_one_name_in_two_folders_do_not_collide(tmp_path: Path, image: Path) -> None:
    other = tmp_path / "others" / image.name
    other.parent.mkdir()
    other.write_bytes(b"another image")
    masks = cache(tmp_path / "masks")
    masks.store(image, proposals(1))
    masks.store(other, proposals(2))
    assert len(masks.load(image, input_size=SIZE).logits) == 1
    assert len(masks.load(other, input_size=SIZE).logits) == 2


def test_a_moved_image_keeps_its_masks(tmp_path: Path, image: Path) -> None:
    masks = cache(tmp_path / "masks")
    masks.store(image, proposals(2))
    moved = image.rename(tmp_path / "b.jpg")
    assert len(masks.load(str(moved), input_size=SIZE).logits) == 2


def test_missing_masks_are_an_error_that_names_image_path_and_command(tmp_path: Path, image: Path) -> None:
    masks = cache(tmp_path / "masks")
    with pytest.raises(EvaluationError) as caught:
        masks.load(image, input_size=SIZE)
    message = str(caught.value)
    assert str(image) in message
    assert str(masks.path(image, SIZE)) in message
    assert "cmpf save-sam-masks --output X" in message
    assert "another test size" not in message
    masks.store(image, proposals(size=(9, 11)))
    with pytest.raises(
        EvaluationError, match=r"input size 5x7 \(there are some at 9x11: another test size\)"
    ):
        masks.load(image, input_size=SIZE)
    assert not masks.holds(image, SIZE)
    assert masks.holds(image, (9, 11))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("TEST.ENSEMBLE.SAM_NAME", "vit_b", "SAM_NAME 'vit_h', wanted is 'vit_b'"),
        ("TEST.ENSEMBLE.MIN_AREA", 99, "MIN_AREA 100, wanted is 99"),
        ("SAM weights", "def", "SAM weights 'abc', wanted is 'def'"),
        ("TEST.ENSEMBLE.NEW", 1.5, "NEW None, wanted is 1.5"),
    ],
)
def test_masks_made_with_other_settings_are_refused(
    tmp_path: Path, image: Path, key: str, value: object, told: str
) -> None:
    cache(tmp_path).store(image, proposals())
    other = cache(tmp_path, **{key: value})
    for call in (lambda: other.load(image, input_size=SIZE), lambda: other.holds(image, SIZE)):
        with pytest.raises(EvaluationError) as caught:
            call()
        assert told in str(caught.value)
        assert str(other.path(image, SIZE)) in str(caught.value)
        assert "cmpf save-sam-masks" in str(caught.value)


def test_a_setting_that_this_run_lacks_is_refused_too(tmp_path: Path, image: Path) -> None:
    cache(tmp_path, EXTRA=1).store(image, proposals())
    with pytest.raises(EvaluationError, match="EXTRA 1, wanted is None"):
        cache(tmp_path).load(image, input_size=SIZE)


def test_unknown_weights_must_be_the_same_in_all_files(tmp_path: Path, image: Path) -> None:
    other = image.with_name("b.jpg")
    other.write_bytes(b"another image")
    cache(tmp_path).store(image, proposals())
    cache(tmp_path, **{"SAM weights": "def"}).store(other, proposals())
    masks = cache(tmp_path, **{"SAM weights": None})
    masks.load(image, input_size=SIZE)
    masks.load(image, input_size=SIZE)
    with pytest.raises(EvaluationError, match="SAM weights 'def', wanted is 'abc'"):
        masks.load(other, input_size=SIZE)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_file_is_an_error_naming_it(tmp_path: Path, image: Path, share: float) -> None:
    masks = cache(tmp_path)
    masks.store(image, proposals())
    path = masks.path(image, SIZE)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(EvaluationError) as caught:
        masks.load(image, input_size=SIZE)
    assert str(caught.value).startswith(f"{path}: damaged, or no file of SAM masks (")
    assert not masks.holds(image, SIZE)


def test_a_changed_byte_is_an_error(tmp_path: Path, image: Path) -> None:
    masks = cache(tmp_path)
    masks.store(image, proposals())
    path = masks.path(image, SIZE)
    content = bytearray(path.read_bytes())
    place = content.index(b"logits.npy") + 60  # in the compressed data
    content[place] ^= 255
    path.write_bytes(bytes(content))
    with pytest.raises(EvaluationError, match="damaged"):
        masks.load(image, input_size=SIZE)


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def foreign_files(folder: Path) -> dict[str, bytes]:
    bomb = Bomb(folder / "exploded")
    np.savez(folder / "objects.npz", header=np.array([bomb], dtype=object))
    np.savez(folder / "arrays.npz", masks=np.ones(3))
    np.savez(folder / "words.npz", header=np.array("[1, 2]"))
    np.savez(folder / "other.npz", header=np.array(json.dumps({"format": "x", "version": 3})))
    np.save(folder / "one.npy", np.ones(3))
    written = ("objects.npz", "arrays.npz", "words.npz", "other.npz", "one.npy")
    return {
        "text": b"hello",
        "pickle": pickle.dumps(bomb),
        **{name: (folder / name).read_bytes() for name in written},
    }


@pytest.mark.parametrize(
    "kind", ["text", "pickle", "objects.npz", "arrays.npz", "words.npz", "other.npz", "one.npy"]
)
def test_a_foreign_file_is_an_error_and_no_code_of_it_runs(tmp_path: Path, image: Path, kind: str) -> None:
    masks = cache(tmp_path / "masks")
    path = masks.path(image, SIZE)
    path.parent.mkdir()
    path.write_bytes(foreign_files(tmp_path)[kind])
    with pytest.raises(EvaluationError) as caught:
        masks.load(image, input_size=SIZE)
    assert str(path) in str(caught.value)
    assert "no file of SAM masks" in str(caught.value)
    assert not (tmp_path / "exploded").exists()


def rewrite(path: Path, **changes: Any) -> None:
    """Changes arrays of a file, or fields of its header."""
    with np.load(path) as file:
        arrays = dict(file)
    header = json.loads(str(arrays["header"]))
    for name, value in changes.items():
        if name in arrays:
            arrays[name] = value
        else:
            header[name] = value
    arrays["header"] = np.array(json.dumps(header))
    np.savez_compressed(path, **arrays)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"version": 1}, "is cmpf-sam-masks version 1, this CMPF reads cmpf-sam-masks version 2"),
        ({"settings": "none"}, "has no settings"),
        ({"padded": [1, 2, 3]}, "too many values to unpack"),
        ({"logits": np.zeros((3, 3, 4, 4), np.uint8)}, "expected uint8 4 x M x h x w"),
        ({"logits": np.zeros((4, 3, 4, 4))}, "logits are float64"),
    ],
)
def test_a_file_whose_parts_do_not_fit_is_refused(
    tmp_path: Path, image: Path, changes: dict[str, Any], told: str
) -> None:
    masks = cache(tmp_path)
    masks.store(image, proposals())
    rewrite(masks.path(image, SIZE), **changes)
    with pytest.raises(EvaluationError) as caught:
        masks.load(image, input_size=SIZE)
    assert told in str(caught.value)


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(path: Path, **_: Any) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    masks = cache(tmp_path / "masks")
    monkeypatch.setattr(np, "savez_compressed", half)
    with pytest.raises(KeyboardInterrupt):
        masks.store(image, proposals())
    assert list((tmp_path / "masks").iterdir()) == []


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.jpg: cannot be read: No such file"):
        cache(tmp_path).load(tmp_path / "gone.jpg", input_size=SIZE)


@pytest.mark.parametrize("member", ["logits.npy", "header.npy", "logits", "header"])
def test_a_small_file_that_would_inflate_to_gigabytes_is_refused_unread(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    """NumPy finds an array by its name with or without the ending."""
    monkeypatch.setattr(proposal_cache, "MAX_LOGITS", 2**20)  # in place of 1 GiB, so that this test is quick
    path, inflated = cache(tmp_path).path(image, SIZE), 2**26
    cache(tmp_path).store(image, proposals())
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts[member] = npy(np.zeros((4, 1, 1, inflated // 4), np.uint8))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    del parts
    assert path.stat().st_size < inflated / 500
    tracemalloc.start()
    try:
        if member.endswith(".npy"):
            with pytest.raises(
                EvaluationError, match=rf"{member} of 67,108,864 bytes, at most 1,048,576 are read"
            ):
                cache(tmp_path).load(image, input_size=SIZE)
            assert not cache(tmp_path).holds(image, SIZE)
        else:  # no part of the file
            assert torch.equal(cache(tmp_path).load(image, input_size=SIZE).logits, proposals().logits)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_masks_that_are_no_numbers_or_of_another_size_are_refused(
    tmp_path: Path, image: Path, bad: float
) -> None:
    spoiled = proposals()
    spoiled.logits[0, 0, 0] = bad
    cache(tmp_path).store(image, spoiled)
    with pytest.raises(EvaluationError, match="logits with NaN or infinity"):
        cache(tmp_path).load(image, input_size=SIZE)
    other = (SIZE[0], SIZE[1] + 1)
    cache(tmp_path).store(image, proposals(size=other))
    cache(tmp_path).path(image, other).rename(cache(tmp_path).path(image, SIZE))
    with pytest.raises(EvaluationError, match=r"masks for the size \(5, 8\), .* wanted is \(5, 7\)"):
        cache(tmp_path).load(image, input_size=SIZE)
