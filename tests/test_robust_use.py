# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Whatever people give, they get a whole result or an error of our own; for long, and from several threads."""

from __future__ import annotations

import gc
import json
import resource
import subprocess
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_model import tiny_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cmpf.data import Vocabulary
from cmpf.encoders.text import TextCache, embed_vocabulary
from cmpf.errors import CMPFError, ImageError, VocabularyError
from cmpf.inference import FORMATS, Prediction
from cmpf.inference.settings import TASKS
from cmpf.predictor import Predictor

EXAMPLES = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
GOOD_WORDS = (
    "Cat",
    "猫",
    "🐈‍⬛",
    "e\u0301",
    "a" * 3000,
    "{}",
    "{0}",
    "a\nb",
    "%s",
    ";",
    "café; crème",
    "x.txt.",
)
BAD_WORDS = ("", "\u2003\t \n", "\u00a0", ",", "cat,", "cat, \u3000", "\0", "\ud800")
ODD_WORDS = (*GOOD_WORDS, *BAD_WORDS)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(model=tiny_model("no_ensemble"), short_side=32, max_side=64, mask_ensemble=None)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)


def check(out: Prediction, size: tuple[int, ...]) -> None:
    assert out.panoptic.shape == out.semantic.shape == size
    assert set(np.unique(out.panoptic)) - {0} == {segment.id for segment in out.segments}
    assert out.semantic.max() < len(out.names)
    assert np.isfinite(out.instances.scores).all()
    assert out.instances.masks.shape == (len(out.instances), *size)


@EXAMPLES
@given(
    st.one_of(
        arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 4]))),
        arrays(np.uint8, st.tuples(st.integers(1, 300), st.integers(1, 3))),
        arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9))),
        arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))),
    )
)
def test_any_image_gives_whole_results(predictor: Predictor, image: np.ndarray) -> None:
    check(predictor.predict(image, ["red circle", "sky"]), image.shape[:2])


@EXAMPLES
@given(
    arrays(
        st.sampled_from([np.uint8, np.int64, np.float32, np.uint16, np.complex64]),
        st.lists(st.integers(0, 5), min_size=0, max_size=4).map(tuple),
    )
)
def test_any_array_is_segmented_or_refused(predictor: Predictor, array: np.ndarray) -> None:
    try:
        check(predictor.predict(array, ["red circle", "sky"]), array.shape[:2])
    except ImageError:  # and nothing else
        return


@EXAMPLES
@given(st.lists(st.one_of(st.sampled_from(ODD_WORDS), st.text(max_size=30)), max_size=6), st.booleans())
def test_any_words_are_looked_for_or_refused(predictor: Predictor, words: list[str], joined: bool) -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    try:
        out = predictor.predict(image, ";".join(words) if joined else words)
    except VocabularyError:  # and nothing else
        return
    check(out, (16, 16))
    assert len(set(out.names)) == len(out.names)
    assert out.plot().width > 0


@pytest.mark.parametrize("word", GOOD_WORDS, ids=ascii)
def test_every_odd_word_can_be_drawn_and_saved(
    predictor: Predictor, image: np.ndarray, tmp_path: Path, word: str
) -> None:
    out = predictor.predict(image, [word])
    assert len(out.save(tmp_path, FORMATS)) == 6  # panoptic are two files
    assert json.loads((tmp_path / "image_0_instances.json").read_text()) == out.to_coco()


@pytest.mark.parametrize("word", BAD_WORDS, ids=ascii)
def test_words_that_say_nothing_or_cannot_be_written_are_refused(
    predictor: Predictor, image: np.ndarray, word: str
) -> None:
    with pytest.raises(VocabularyError, match=r"empty|no text file can hold"):
        predictor.predict(image, [word])


@EXAMPLES
@given(
    task=st.one_of(st.sampled_from(TASKS), st.text(max_size=5)),
    batch_size=st.integers(-1, 3),
    ensemble=st.sampled_from([None, False, True]),
    things=st.one_of(st.none(), st.lists(st.sampled_from(["cat", "sky", "dog"]), max_size=2)),
    stuff=st.one_of(st.none(), st.lists(st.sampled_from(["cat", "sky", "dog"]), max_size=2)),
    formats=st.lists(st.sampled_from([*FORMATS, "tiff"]), max_size=3),
)
def test_any_options_work_or_are_refused(
    predictor: Predictor, image: np.ndarray, tmp_path: Path, formats: list[str], **options: object
) -> None:
    try:
        found = predictor.predict([image, image], ["cat", "sky"], **options)  # type: ignore[call-overload]
        written = [path for out in found for path in out.save(tmp_path, formats)]
    except CMPFError:  # and nothing else
        return
    assert len(found) == 2
    assert all(path.stat().st_size for path in written)


def test_words_of_any_length_are_cut_not_refused(predictor: Predictor, image: np.ndarray) -> None:
    out = predictor.predict(image, ["very " * 5000 + "long", "sky"])
    assert len(out.names[0]) == 25004  # 5000 * 5 + 4
    assert out.plot().width < 3000


@pytest.mark.slow
def test_two_thousand_classes_are_one_vocabulary(predictor: Predictor, image: np.ndarray) -> None:
    check(predictor.predict(image, [f"thing {number}" for number in range(2000)]), (40, 56))


def test_two_thousand_classes_fit_into_the_results(
    predictor: Predictor, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the text tower, which alone takes long: one random direction a class.
    def encode(prompts: list[str]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(len(prompts))
        return torch.randn(len(prompts), predictor.model.encoders.clip.embed_dim, generator=generator)

    monkeypatch.setattr(predictor.model.encoders.clip, "encode_text", encode)
    monkeypatch.setattr(predictor.model, "text_cache", None)
    out = predictor.predict(image, [f"direction {number}" for number in range(2000)])
    check(out, (40, 56))
    assert len(out.names) == 2000
    predictor.model.forget_embeddings()


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(value), torch.Tensor) for value in gc.get_objects())


def test_a_hundred_predictions_do_not_let_memory_grow(predictor: Predictor, image: np.ndarray) -> None:
    """Memory is looked at when more than half is done: allocators and caches fill up first."""
    peak = tensors = 0
    for number in range(100):
        # More vocabularies than the model remembers, and images of several sizes.
        out = weakref.ref(predictor.predict(image[: 20 + number % 20], ["sky", f"color {number % 40}"]))
        if number == 60:
            peak, tensors = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, live_tensors()
    assert out() is None
    assert live_tensors() == tensors
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    assert grown < 20, f"{grown:.0f} MiB more"


def test_threads_get_the_results_of_their_own_words(predictor: Predictor, image: np.ndarray) -> None:
    vocabularies = [["red circle", "sky"], ["unicorn", "grass", "water, sea"]]
    alone = [predictor.predict(image, words) for words in vocabularies]
    predictor.model.forget_embeddings()
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda words: predictor.predict(image, words), vocabularies * 5))
    for number, out in enumerate(together):
        expected = alone[number % 2]
        assert out.names == expected.names
        assert np.array_equal(out.semantic, expected.semantic)
        assert np.array_equal(out.panoptic, expected.panoptic)


WRITE = """
import sys, torch
from cmpf.encoders.text import TextCache
cache, value = TextCache(sys.argv[1]), torch.full((200, 64), 1.5)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(30):
    cache.store({"k" * 64: value})
    found = cache.load("k" * 64, shape=(200, 64))
    assert found is not None and torch.equal(found, value)
"""


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    command = [sys.executable, "-c", WRITE, str(tmp_path / "cache")]
    pipe = subprocess.PIPE
    started = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    yield started
    for process in started:
        process.kill()
        process.communicate()


def test_two_processes_may_write_the_text_cache_at_once(
    writers: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    for process in writers:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in writers:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in writers:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{'k' * 64}.safetensors"]


@pytest.mark.parametrize("damage", ["cut", "foreign", "bits"])
def test_a_damaged_text_cache_is_made_again(predictor: Predictor, tmp_path: Path, damage: str) -> None:
    cache, clip = TextCache(tmp_path), predictor.model.encoders.clip
    classes = Vocabulary.from_words(["red circle", "sky"]).classes
    expected = embed_vocabulary(clip, classes, cache=cache).matrix
    file = min(tmp_path.iterdir())
    content = file.read_bytes()
    damaged = {
        "cut": content[: len(content) // 2],
        "foreign": json.dumps({"a": 1}).encode(),
        "bits": content[:-4] + bytes(byte ^ 255 for byte in content[-4:]),
    }
    file.write_bytes(damaged[damage])
    assert torch.equal(embed_vocabulary(clip, classes, cache=cache).matrix, expected)
    assert file.read_bytes() == content
