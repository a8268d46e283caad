# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import os
import re
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from cmpf.errors import DatasetError, ImageError
from cmpf.formats import addresses
from cmpf.formats import image as images
from cmpf.formats.image import (
    MAX_PIXELS,
    open_image,
    read_image,
    read_image_size,
    read_small_image,
    resize_image,
    resize_shortest_edge,
    shortest_edge_size,
    write_image,
)
from cmpf.formats.label_map import read_labels

GRADIENT = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


def saved(folder: Path, image: Image.Image, name: str = "image.png", **options: Any) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


# What is read


def test_an_rgb_file_is_read_exactly_from_path_text_pil_and_array(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(GRADIENT))
    for source in (path, str(path), Image.open(path), GRADIENT):
        result = read_image(source)
        assert result.dtype == np.uint8
        assert np.array_equal(result, GRADIENT)


def test_the_result_is_a_copy_of_its_own() -> None:
    source = GRADIENT.copy()
    result = read_image(source)
    source[:] = 0
    result[0, 0] = 7  # writable
    assert np.array_equal(result[1:], GRADIENT[1:])


def test_gray_images_get_three_equal_channels(tmp_path: Path) -> None:
    gray = GRADIENT[..., 0]
    expected = np.stack([gray] * 3, axis=-1)
    assert np.array_equal(read_image(saved(tmp_path, Image.fromarray(gray))), expected)
    assert np.array_equal(read_image(gray), expected)
    assert np.array_equal(read_image(gray[..., None]), expected)


def test_black_and_white_images_and_masks_become_0_and_255(tmp_path: Path) -> None:
    mask = GRADIENT[..., 0] > 100
    expected = np.stack([mask] * 3, axis=-1) * 255
    assert np.array_equal(read_image(saved(tmp_path, Image.fromarray(mask))), expected)
    assert np.array_equal(read_image(mask), expected)


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = [255, 0, 51]  # opaque, invisible, a fifth: black over white gives 0, 255, 255 - 51 = 204
    expected = np.array([[[0] * 3, [255] * 3, [204] * 3]])
    assert np.array_equal(read_image(saved(tmp_path, Image.fromarray(rgba))), expected)
    assert np.array_equal(read_image(rgba), expected)
    gray = Image.fromarray(rgba[..., 2:])  # gray 0 and alpha
    assert np.array_equal(read_image(saved(tmp_path, gray, "la.png")), expected)


def test_palette_images_are_read_through_their_palette(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 2]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    expected = np.array([[[10, 20, 30], [40, 50, 60]], [[40, 50, 60], [70, 80, 90]]])
    assert np.array_equal(read_image(saved(tmp_path, image)), expected)
    expected[0, 1] = expected[1, 0] = 255  # color 1 is transparent
    assert np.array_equal(read_image(saved(tmp_path, image, "t.png", transparency=1)), expected)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_gray_keeps_its_range(tmp_path: Path, suffix: str) -> None:
    # 257 = 65535 / 255: 128 -> 0.498 -> 0, 129 -> 0.502 -> 1, 65535 -> 255
    deep = np.array([[0, 128, 129], [257, 32768, 65535]], np.uint16)
    expected = np.array([[0, 0, 1], [1, 128, 255]])
    for source in (deep, saved(tmp_path, Image.fromarray(deep), f"deep.{suffix}")):
        assert np.array_equal(read_image(source), np.stack([expected] * 3, axis=-1))


def test_cmyk_jpegs_are_converted(tmp_path: Path) -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    result = read_image(saved(tmp_path, red, "red.jpg", quality=100))
    assert np.abs(result.astype(int) - [255, 0, 0]).max() <= 3


# 6 = the camera was turned: the stored image must be rotated by 90 degrees clockwise to stand upright.
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, GRADIENT),
        (2, GRADIENT[:, ::-1]),
        (3, np.rot90(GRADIENT, 2)),
        (4, GRADIENT[::-1]),
        (5, GRADIENT.transpose(1, 0, 2)),
        (6, np.rot90(GRADIENT, -1)),
        (7, np.rot90(GRADIENT, 2).transpose(1, 0, 2)),
        (8, np.rot90(GRADIENT)),
        (9, GRADIENT),
    ],
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, upright: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(GRADIENT), exif=exif)
    assert np.array_equal(read_image(path), upright)
    assert np.array_equal(read_image(Image.open(path)), upright)
    assert read_image_size(path) == upright.shape[:2]


def test_damaged_exif_data_do_not_spoil_an_image(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(GRADIENT), exif=b"Exif\0\0no TIFF header here")
    assert np.array_equal(read_image(path), GRADIENT)


def test_the_first_image_of_an_animation_counts(tmp_path: Path) -> None:
    frames = [Image.new("P", (3, 2), index) for index in (0, 1)]
    for frame in frames:
        frame.putpalette([255, 0, 0, 0, 255, 0])
    path = tmp_path / "two.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert np.array_equal(read_image(path), np.full((2, 3, 3), [255, 0, 0]))


@pytest.mark.parametrize("size", [(1, 1), (20, 6000), (6000, 20)])
def test_extreme_sizes_are_read(tmp_path: Path, size: tuple[int, int]) -> None:
    path = saved(tmp_path, Image.new("RGB", (size[1], size[0]), (1, 2, 3)))
    assert read_image(path).shape == (*size, 3)


# What is refused


def test_a_missing_file_is_named_with_the_place_looked_at(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=rf"no such image \(looked at {tmp_path}/none.jpg\)"):
        read_image(tmp_path / "none.jpg")


def test_a_folder_and_an_impossible_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a folder; name an image in it"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match="no usable path"):
        read_image("x" * 5000)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "empty.jpg"
    path.touch()
    with pytest.raises(ImageError, match=r"empty\.jpg: the file is empty"):
        read_image(path)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("these are words")
    with pytest.raises(ImageError, match=r"notes\.jpg: not an image"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "webp", "tif"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_file_is_refused_and_named(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), f"cut.{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ImageError, match=rf"cut\.{suffix}: "):
        read_image(path)


def test_images_without_pixels_are_refused() -> None:
    with pytest.raises(ImageError, match=r"has no pixels, its size is 5 x 0"):
        read_image(Image.new("RGB", (0, 5)))
    with pytest.raises(ImageError, match=r"has no pixels, its size is 0 x 4"):
        read_image(np.zeros((0, 4, 3), np.uint8))


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(GRADIENT))
    assert read_image(path, max_pixels=24).shape == (4, 6, 3)
    with pytest.raises(
        ImageError, match=r"4 x 6 .* more than 23 pixels; make it smaller or raise max_pixels"
    ):
        read_image(path, max_pixels=23)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_500, 20_000])  # over our limit, and over twice Pillow's
def test_decompression_bombs_are_refused(tmp_path: Path, side: int) -> None:
    path = saved(tmp_path, Image.new("1", (side, side)))
    assert side * side > MAX_PIXELS
    with pytest.raises(ImageError, match=r"image\.png: .*make it smaller"):
        read_image(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 6, 3), np.float32), r"float32: expected uint8 values 0..255"),
        (np.zeros((4, 6), np.int64), "expected uint8"),
        (np.zeros((4, 6, 3), np.uint16), "expected uint8"),
        (np.zeros((3, 4, 6), np.uint8), r"shape \(3, 4, 6\).*channels last"),
        (np.zeros((2, 4, 6, 3), np.uint8), "channels last"),
        (np.zeros(5, np.uint8), "channels last"),
    ],
)
def test_arrays_of_other_types_and_shapes_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_image(array)


def test_other_objects_are_refused_by_type() -> None:
    with pytest.raises(ImageError, match="cannot read an image from list"):
        read_image([1, 2])  # type: ignore[arg-type]


def test_gray_of_unknown_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="floating-point gray values of unknown range"):
        read_image(saved(tmp_path, Image.new("F", (2, 2), 0.5), "f.tif"))
    with pytest.raises(ImageError, match=r"gray values 70000\.\.70000 do not fit 16 bits"):
        read_image(saved(tmp_path, Image.new("I", (2, 2), 70000), "i.tif"))


# Addresses


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A server on this machine: /image.png is there, /to/ADDRESS leads there, /slow never ends, all else is not."""
    content = saved(tmp_path, Image.fromarray(GRADIENT)).read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            target = self.path.removeprefix("/to/")
            self.send_response(200 if self.path == "/image.png" else 302 if target != self.path else 404)
            self.send_header("Location", target)
            while self.path == "/slow":  # a byte at a time, so that no single wait is long
                try:
                    self.wfile.write(b"a")
                    self.wfile.flush()
                except OSError:
                    return
                time.sleep(0.05)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_addresses_are_refused_unless_allowed(address: str) -> None:
    with pytest.raises(ImageError, match="addresses are not downloaded; save the image"):
        read_image(f"{address}/image.png")
    assert np.array_equal(read_image(f"{address}/image.png", allow_urls="private"), GRADIENT)


def test_a_failed_download_is_an_error_with_the_address(address: str) -> None:
    with pytest.raises(ImageError, match=r"none\.png: download failed \(HTTPError: HTTP Error 404"):
        read_image(f"{address}/none.png", allow_urls="private")


def test_other_kinds_of_address_are_never_read() -> None:
    for url in ("file:///etc/passwd", "ftp://example.org/a.png", "data:image/png;base64,AAAA"):
        with pytest.raises(ImageError, match="give a plain path"):
            read_image(url, allow_urls=True)


def test_machines_of_the_own_network_are_read_only_when_they_are_meant(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = r"127\.0\.0\.1 is a machine of this network or this machine itself.*allow_urls='private'"
    with pytest.raises(ImageError, match=message):
        read_image(f"{address}/image.png", allow_urls=True)
    known = addresses._is_public
    monkeypatch.setattr(addresses, "_is_public", lambda number: number == "127.0.0.1" or known(number))
    assert np.array_equal(read_image(f"{address}/image.png", allow_urls=True), GRADIENT)
    for inner in ("http://169.254.169.254/latest", "http://[::1]:1/", "http://10.0.0.1/a.png"):
        with pytest.raises(ImageError, match="is a machine of this network"):
            read_image(f"{address}/to/{inner}", allow_urls=True)
    for other in ("ftp://example.org/a.png", "file:///etc/passwd"):
        with pytest.raises(ImageError, match="download failed"):
            read_image(f"{address}/to/{other}", allow_urls="private")


def test_addresses_of_private_networks_are_told_from_public_ones() -> None:
    inner = (
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "169.254.169.254",
        "::1",
        "fe80::1%eth0",
        "::ffff:127.0.0.1",
    )
    assert not any(addresses._is_public(number) for number in (*inner, "0.0.0.0", "fd00::1", "100.64.0.1"))
    assert all(addresses._is_public(number) for number in ("93.184.215.14", "2606:2800:21f:cb07::1"))


def test_a_download_that_trickles_ends_in_time(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "DOWNLOAD_SECONDS", 0.5)
    started = time.perf_counter()
    with pytest.raises(ImageError, match=r"download failed \(not finished after 0\.5 s\)"):
        read_image(f"{address}/slow", allow_urls="private")
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    "url", ["http://[", "http://[::1", "http://a b/", "http:///x", "https://\x00/", "HTTP://"]
)
def test_malformed_addresses_are_errors_of_images(url: str) -> None:
    with pytest.raises(ImageError):
        read_image(url, allow_urls=True)


# Sizes


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),  # 800 / 480 = 1.667; 640 * 1.667 = 1066.7
        ((400, 1000), (533, 1333)),  # the longer side binds: 1333 / 1000 = 1.333; 400 * 1.333 = 533.2
        ((1, 1), (800, 800)),
        ((20, 6000), (4, 1333)),  # 1333 / 6000 * 20 = 4.44
        ((1, 60000), (1, 1333)),  # 0.02 rows, but an image has one
    ],
)
def test_the_shorter_side_is_set_and_the_longer_one_limited(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert shortest_edge_size(*size, short_side=800, max_side=1333) == expected


def scaled_twice(height: int, width: int, short_side: int, max_side: int) -> tuple[int, int]:
    """Detectron2's rule for test sizes, written out: to the shorter side, then to the longer one, then rounded."""
    factor = short_side / min(height, width)
    new_height, new_width = (short_side, factor * width) if height < width else (factor * height, short_side)
    if max(new_height, new_width) > max_side:
        factor = max_side / max(new_height, new_width)
        new_height, new_width = new_height * factor, new_width * factor
    return int(new_height + 0.5), int(new_width + 0.5)


def test_sizes_are_scaled_twice_and_then_rounded() -> None:
    # 391 x 1024 at 1024 / 2560: 1024 x 2681.78, then times 2560 / 2681.78 = 977.4999...; at once 391 * 2.5 = 977.5.
    assert shortest_edge_size(391, 1024, short_side=1024, max_side=2560) == (977, 2560)
    assert shortest_edge_size(1024, 391, short_side=1024, max_side=2560) == (2560, 977)
    for short_side, max_side in ((800, 1333), (1024, 2560), (640, 2560), (480, 500)):
        for height, width in product(range(64, 2100, 59), range(64, 2100, 53)):
            found = shortest_edge_size(height, width, short_side=short_side, max_side=max_side)
            assert found == scaled_twice(height, width, short_side, max_side), (height, width)


def test_resizing_keeps_flat_color_and_gives_the_size() -> None:
    flat = np.full((10, 20, 3), [10, 20, 30], np.uint8)
    result = resize_shortest_edge(flat, short_side=5, max_side=100)
    assert result.shape == (5, 10, 3)
    assert np.array_equal(result, np.full((5, 10, 3), [10, 20, 30]))
    assert resize_image(flat, (10, 20)) is flat


def test_enlarging_is_bilinear() -> None:
    # Two pixels 0 and 100 become four, at -0.25 (held at the edge), 0.25, 0.75, 1.25: 0, 25, 75, 100.
    row = np.array([[[0] * 3, [100] * 3]], np.uint8)
    assert resize_image(row, (1, 4))[0, :, 0].tolist() == [0, 25, 75, 100]


# Small images from large files


def textured(height: int, width: int) -> Image.Image:
    """Soft shapes with grain, as photographs have them."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 255, (9, 12, 3), dtype=np.uint8))
    soft = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    grain = generator.normal(0, 8, (height, width, 1))
    return Image.fromarray((soft + grain).clip(0, 255).astype(np.uint8))


def decoded_sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(H, W) of every image that is decoded from now on."""
    sizes: list[tuple[int, int]] = []
    plain = images._decode

    def decode(image: Image.Image, name: str, max_pixels: int) -> images.RGB:
        sizes.append((image.size[1], image.size[0]))
        return plain(image, name, max_pixels)

    monkeypatch.setattr(images, "_decode", decode)
    return sizes


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_small_and_looks_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation  # 6: the file's rows are the image's columns
    path = saved(tmp_path, textured(600, 803), "large.jpg", quality=92, exif=exif)
    wanted = resize_shortest_edge(read_image(path), short_side=100, max_side=400)
    sizes = decoded_sizes(monkeypatch)
    found, size = read_small_image(path, short_side=100, max_side=400)
    # 100 x 134 wanted, twice that is 200 x 268: 803 // 268 = 600 // 200 = 2 is left of 8 and 4; 803 / 2 = 401.5.
    assert sizes == [(300, 402)]
    assert size == ((600, 803) if orientation == 1 else (803, 600))
    difference = np.abs(found.astype(int) - wanted.astype(int))
    assert found.shape == wanted.shape
    assert difference.mean() < 1
    assert np.quantile(difference, 0.999) <= 4


def test_a_turned_jpeg_that_is_nearly_square_keeps_its_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    # An eighth of 801 x 808 is 101 x 101, a square: its shape does not tell that the image was turned.
    path = saved(tmp_path, textured(801, 808), "square.jpg", exif=exif)
    found, size = read_small_image(path, short_side=50, max_side=400)
    assert size == read_image(path).shape[:2] == (808, 801)
    assert found.shape == (50, 50, 3)


@pytest.mark.parametrize("name", ["near.jpg", "large.png"])
def test_where_nothing_is_gained_the_result_is_exact(tmp_path: Path, name: str) -> None:
    # 300 x 400 is less than four times 100 x 133: a half would be too small.
    size = (300, 400) if name == "near.jpg" else (600, 800)
    path = saved(tmp_path, textured(*size), name)
    found, original = read_small_image(path, short_side=100, max_side=400)
    assert original == size
    assert np.array_equal(found, resize_shortest_edge(read_image(path), short_side=100, max_side=400))


# Heads of which Pillow's decoders, were they asked, say other things than OSError.
NO_PIXEL_FORMAT = b"DDS " + struct.pack("<5I", 124, 0, 4, 4, 0) + bytes(104)
NO_PIXELS = b"qoif" + struct.pack(">2I2B", 4, 4, 3, 0)


@pytest.mark.parametrize(
    "content", [None, b"", b"no image", b"\xff\xd8\xff\xe0damaged", NO_PIXEL_FORMAT, NO_PIXELS]
)
def test_a_file_that_cannot_be_read_small_is_the_error_of_read_image(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "image.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=r"image\.jpg") as small:
        read_small_image(path, short_side=10, max_side=20)
    with pytest.raises(ImageError) as plain:
        read_image(path)
    assert str(small.value) == str(plain.value)
    with pytest.raises(ImageError) as size:
        read_image_size(path)
    assert str(size.value) == str(plain.value)


def test_images_are_written_in_the_format_of_their_ending(tmp_path: Path) -> None:
    path = write_image(tmp_path / "new" / "a.png", GRADIENT)
    assert np.array_equal(read_image(path), GRADIENT)
    assert np.array_equal(read_image(write_image(path, Image.fromarray(GRADIENT[::-1]))), GRADIENT[::-1])
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_a_jpeg_of_too_many_pixels_is_refused_by_its_full_size(tmp_path: Path) -> None:
    path = saved(tmp_path, textured(64, 80), "large.jpg")
    with pytest.raises(ImageError, match="64 x 80"):
        read_small_image(path, short_side=4, max_side=8, max_pixels=5000)


@pytest.mark.parametrize("kind", ["EPS", "ICNS", "DDS", "ICO", "TGA"])
@pytest.mark.parametrize("reader", [read_image, read_image_size, open_image, read_labels])
def test_other_decoders_are_never_started_whatever_a_file_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, reader: Any
) -> None:
    """EPS starts Ghostscript, a program that runs programs."""
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(path, format=kind)
    started: list[str] = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *arguments, **options: started.append("gs"))
    with pytest.raises((ImageError, DatasetError, UnidentifiedImageError)):
        reader(path)
    assert started == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("reader", [read_image, read_labels])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, reader: Any) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises((ImageError, DatasetError), match="no regular file"):
        reader(tmp_path / "pipe.png")


def test_only_one_place_opens_images() -> None:
    package = Path(images.__file__).parents[1]
    calls = [path for path in package.rglob("*.py") if "Image.open(" in path.read_text(encoding="utf-8")]
    assert calls == [Path(images.__file__)]


def test_only_one_place_writes_image_files() -> None:
    package = Path(images.__file__).parents[1]
    saved = re.compile(r"fromarray\(.*\)\.save\(|\.save\(temporary")
    calls = [path for path in package.rglob("*.py") if saved.search(path.read_text(encoding="utf-8"))]
    assert calls == [Path(images.__file__)]
