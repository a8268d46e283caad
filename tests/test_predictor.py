# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from helpers.tiny_model import mask_ensemble, tiny_model
from PIL import Image

from cmpf.data import Vocabulary
from cmpf.errors import CMPFError, ImageError, VocabularyError
from cmpf.predictor import Predictor

WORDS = ["red circle, scarlet disc", "unicorn", "sky"]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    ensemble = mask_ensemble()
    return Predictor(model=tiny_model(), short_side=64, max_side=128, mask_ensemble=ensemble)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)


def test_one_image_gives_one_prediction_with_everything(predictor: Predictor, image: np.ndarray) -> None:
    out = predictor.predict(image, WORDS)
    assert out.panoptic.shape == out.semantic.shape == (40, 56)
    assert out.panoptic.dtype == np.int32
    assert out.semantic.dtype == np.uint16
    assert out.instances.masks.shape[1:] == (40, 56)
    assert out.names == ("red circle", "unicorn", "sky")
    for segment in out.segments:
        rows, columns = np.nonzero(out.panoptic == segment.id)
        assert segment.area == len(rows)
        x, y, width, height = segment.bbox
        assert (columns.min(), rows.min()) == (x, y)
        assert (columns.max() + 1, rows.max() + 1) == (x + width, y + height)


def test_a_list_gives_a_list_in_its_order_whatever_the_batch_size(
    predictor: Predictor, image: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(image).save(tmp_path / "a.png")
    sources = [image, tmp_path / "a.png", Image.fromarray(image)]
    one = predictor.predict(sources, WORDS, task="semantic")
    three = predictor.predict(sources, WORDS, task="semantic", batch_size=3)
    assert len(one) == len(three) == 3
    assert one[1].source == str(tmp_path / "a.png")
    for a, b in zip(one, three, strict=True):
        assert (a.semantic == one[0].semantic).all()
        assert (a.semantic == b.semantic).mean() > 0.99  # the order of sums differs


@pytest.mark.parametrize(
    ("task", "has", "lacks"), [("panoptic", "panoptic", "semantic"), ("instance", "instances", "panoptic")]
)
def test_a_task_computes_only_itself(
    predictor: Predictor, image: np.ndarray, task: str, has: str, lacks: str
) -> None:
    out = predictor.predict(image, WORDS, task=task)
    assert getattr(out, has) is not None
    with pytest.raises(CMPFError, match=f"but not {lacks}"):
        getattr(out, lacks)


def test_words_may_be_a_list_a_string_a_file_or_a_vocabulary(
    predictor: Predictor, image: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "words.txt").write_text("1:red circle,scarlet disc\n2:unicorn\n3:sky\n")
    vocabulary = Vocabulary.from_words(WORDS, stuff=["sky"])
    forms = [WORDS, "red circle, scarlet disc; unicorn; sky;", tmp_path / "words.txt", vocabulary]
    found = [predictor.predict(image, form, task="semantic") for form in forms]
    assert all(out.names == ("red circle", "unicorn", "sky") for out in found)
    assert all((out.semantic == found[0].semantic).all() for out in found)


def test_trained_classes_keep_their_kind_and_others_are_things(predictor: Predictor) -> None:
    assert predictor.vocabulary(WORDS).is_thing == (True, True, False)
    assert predictor.vocabulary(WORDS, stuff=["unicorn", "sky"]).is_thing == (True, False, False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "empty"),
        ("", "empty"),
        (["cat", " "], "empty"),
        (["cat", "dog", "cat"], "'cat' is repeated"),
    ],
)
def test_bad_words_are_refused_by_name(
    predictor: Predictor, image: np.ndarray, words: list[str] | str, message: str
) -> None:
    with pytest.raises(VocabularyError, match=message):
        predictor.predict(image, words)


def test_an_unknown_task_and_a_bad_batch_size_are_refused(predictor: Predictor, image: np.ndarray) -> None:
    with pytest.raises(
        CMPFError, match="'depth' is unknown; choose one of all, panoptic, semantic, instance"
    ):
        predictor.predict(image, WORDS, task="depth")
    with pytest.raises(CMPFError, match="batch_size must be at least 1, got 0"):
        predictor.predict([image], WORDS, batch_size=0)


def test_the_ensemble_needs_a_model_that_has_one(image: np.ndarray) -> None:
    plain = Predictor(model=tiny_model("fcclip_tiny"), short_side=64, max_side=128, mask_ensemble=None)
    with pytest.raises(CMPFError, match=r"TEST\.ENSEMBLE\.ENABLED True"):
        plain.predict(image, WORDS, ensemble=True)
    assert plain.predict(image, WORDS, ensemble=False).panoptic.shape == (40, 56)


def test_the_ensemble_can_be_switched_for_one_call(
    predictor: Predictor, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    proposer = predictor.model.encoders.mask_source.proposer
    forward = type(proposer).forward
    monkeypatch.setattr(type(proposer), "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    predictor.predict(image, WORDS, task="semantic", ensemble=False)
    assert calls == []
    predictor.predict(image, WORDS, task="semantic", ensemble=True)
    assert calls == [1]


Writer = Callable[[Path], tuple[int, int]]  # writes an image, its path without ending -> the (H, W) to expect


def _noise(*shape: int, top: int = 255, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, top, shape).astype(dtype)


def _save(image: Image.Image, path: Path, ending: str, **options: object) -> tuple[int, int]:
    image.save(path.with_suffix(ending), **options)
    return image.height, image.width


def _rotated(path: Path) -> tuple[int, int]:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    Image.fromarray(_noise(20, 30, 3)).save(path.with_suffix(".jpg"), exif=exif)
    return 30, 20


def odd_images() -> dict[str, Writer]:
    """Images of every kind that users have, by name."""
    return {
        "gray": lambda p: _save(Image.fromarray(_noise(20, 30)), p, ".png"),
        "rgba": lambda p: _save(Image.fromarray(_noise(20, 30, 4)), p, ".png"),
        "palette": lambda p: _save(Image.fromarray(_noise(20, 30, 3)).quantize(16), p, ".png"),
        "16-bit": lambda p: _save(Image.fromarray(_noise(20, 30, top=65535, dtype=np.uint16)), p, ".png"),
        "cmyk": lambda p: _save(Image.fromarray(_noise(20, 30, 3)).convert("CMYK"), p, ".jpg"),
        "rotated by exif": _rotated,
        "1 x 1": lambda p: _save(Image.fromarray(_noise(1, 1, 3)), p, ".png"),
        "6000 x 20": lambda p: _save(Image.fromarray(_noise(20, 6000, 3)), p, ".png"),
        "20 x 6000": lambda p: _save(Image.fromarray(_noise(6000, 20, 3)), p, ".png"),
    }


@pytest.mark.parametrize("kind", sorted(odd_images()))
def test_every_kind_of_image_goes_through(predictor: Predictor, kind: str, tmp_path: Path) -> None:
    size = odd_images()[kind](tmp_path / "image")
    out = predictor.predict(next(tmp_path.iterdir()), WORDS)
    assert out.panoptic.shape == out.semantic.shape == size
    assert out.plot().width > 0


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_files_that_are_no_images_are_named(predictor: Predictor, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        predictor.predict(tmp_path / "broken.jpg", WORDS)


def test_a_truncated_image_is_named(predictor: Predictor, image: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "half.jpg"
    Image.fromarray(image).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=r"half\.jpg.*(truncated|damaged)"):
        predictor.predict(path, WORDS)


def test_a_missing_image_is_named(predictor: Predictor) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.jpg"):
        predictor.predict("nowhere.jpg", WORDS)


def test_addresses_are_downloaded_only_when_that_is_allowed(
    predictor: Predictor, image: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(image).save(tmp_path / "a.png")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.png"
        with pytest.raises(ImageError, match="addresses are not downloaded"):
            predictor.predict(url, WORDS)
        assert predictor.predict(url, WORDS, task="semantic", allow_urls="private").semantic.shape == (40, 56)
        server.shutdown()


def test_a_folder_gives_its_images_alone_and_in_a_list(
    predictor: Predictor, image: np.ndarray, tmp_path: Path
) -> None:
    for name in ("b.png", "a.png"):
        Image.fromarray(image).save(tmp_path / name)
    found = predictor.predict(str(tmp_path), WORDS, task="semantic", batch_size=2)
    assert [Path(out.source).name for out in found] == ["a.png", "b.png"]
    mixed = predictor.predict([image, tmp_path], WORDS, task="semantic", batch_size=2)
    assert [Path(out.source).name for out in mixed] == ["image_0", "a.png", "b.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="empty: no image in this folder"):
        predictor.predict(tmp_path / "empty", WORDS)


def test_images_without_a_name_are_numbered_over_all_batches(predictor: Predictor, image: np.ndarray) -> None:
    found = predictor.predict([image] * 3, WORDS, task="semantic")
    assert [out.source for out in found] == ["image_0", "image_1", "image_2"]
    assert predictor.predict([], WORDS) == []


def test_a_stream_reads_no_further_than_its_batch(predictor: Predictor, image: np.ndarray) -> None:
    read: list[int] = []

    def frames() -> Iterator[np.ndarray]:
        for number in range(100):
            read.append(number)
            yield image

    stream = predictor.stream(frames(), WORDS, task="semantic", batch_size=2)
    assert read == []
    next(stream)
    assert read == [0, 1]
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("kind", ["path", "folder", "text of a path", "array", "Pillow image"])
def test_a_stream_takes_one_image_path_or_folder_as_one_source(
    predictor: Predictor, image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(image[:30]).save(tmp_path / "b.png")
    monkeypatch.chdir(tmp_path)  # "." of "./a.png" is a folder with two images
    sources = {
        "path": tmp_path / "a.png",
        "folder": tmp_path,
        "text of a path": "./a.png",
        "array": image,
        "Pillow image": Image.fromarray(image),
    }
    found = list(predictor.stream(sources[kind], WORDS, task="semantic"))
    assert [out.semantic.shape[0] for out in found] == ([40, 30] if kind == "folder" else [40])


def test_a_model_in_training_gives_the_results_of_evaluation_and_stays_in_training(image: np.ndarray) -> None:
    model = tiny_model("no_ensemble")
    wanted = Predictor(model=model, short_side=64, max_side=128, mask_ensemble=None).predict(image, WORDS)
    model.train()
    before = {name: part.training for name, part in model.named_modules()}
    modes: list[bool] = []
    model.decoder.register_forward_hook(lambda part, *_: modes.append(part.training))
    predictor = Predictor(model=model, short_side=64, max_side=128, mask_ensemble=None)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: predictor.predict(image, WORDS), range(4)))
    assert modes == [False] * 4
    assert {name: part.training for name, part in model.named_modules()} == before
    assert model.decoder.training
    for out in found:
        assert np.array_equal(out.panoptic, wanted.panoptic)
        assert np.array_equal(out.instances.scores, wanted.instances.scores)


LOAD = """
import random, sys
import numpy as np, torch
torch.set_num_threads(3)
random.seed(1), np.random.seed(1), torch.manual_seed(1)
def state():
    return repr((random.getstate(), np.random.get_state(), torch.get_rng_state().tolist(), torch.get_num_threads()))
before = state()
import cmpf
predictor = cmpf.load("cmpf_tiny", device="cpu")
predictor.predict(np.zeros((32, 48, 3), np.uint8), ["sky"])
assert predictor.cfg.NUM_THREADS == 2  # which is for programs to apply
print(state() == before, predictor.model.training, torch.is_grad_enabled())
print(len([name for name in sys.modules if name.split(".")[0] == "cmpf"]))
"""


def test_loading_leaves_the_process_as_it_was_and_imports_little() -> None:
    done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    state, imported = done.stdout.splitlines()
    assert state == "True False True"
    # 181 when training, evaluation and drawing were imported for every prediction.
    assert int(imported) <= 110


def test_a_stream_checks_its_options_before_the_first_image(predictor: Predictor, image: np.ndarray) -> None:
    with pytest.raises(VocabularyError, match="empty"):
        predictor.stream([image], [])


@pytest.mark.parametrize("images", ["", b"content of a file"])
def test_neither_an_empty_path_nor_the_content_of_a_file_stands_for_a_folder_or_its_bytes(
    predictor: Predictor, image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: object
) -> None:
    Image.fromarray(image).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)  # Path("") is the working directory
    with pytest.raises(ImageError, match=r"'': is no regular file|cannot read images from bytes"):
        predictor.predict(images, WORDS)  # type: ignore[call-overload]


@pytest.mark.parametrize("images", [None, 7, [None], ["\0"], ["~nobody-here/a.png"], ["x" * 5000], [""]])
def test_what_is_no_image_is_an_image_error(predictor: Predictor, images: object) -> None:
    with pytest.raises(ImageError):
        predictor.predict(images, WORDS)  # type: ignore[call-overload]


def test_the_words_of_a_dataset_may_be_named(predictor: Predictor, image: np.ndarray) -> None:
    out = predictor.predict(image, "openvocab_cityscapes_fine_panoptic_val", task="semantic")
    assert len(out.names) == 19
