# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Image files of every kind as (H, W, 3) uint8 RGB, and the size that the model sees them in."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cmpf.common.files import replacing
from cmpf.errors import ImageError

if TYPE_CHECKING:
    from cmpf.formats.addresses import UrlPolicy

RGB: TypeAlias = NDArray[np.uint8]
ImageSource: TypeAlias = "str | Path | Image.Image | NDArray[Any]"
SINGLE = (str, Path, Image.Image, np.ndarray)  # the same for isinstance

MAX_PIXELS = 89_478_485  # a quarter of a gigabyte as RGB, where Pillow begins to warn of decompression bombs
# What Pillow opens, whatever a file's name says: decoders that are common, maintained and start no other program, as
# that of EPS starts Ghostscript. MPO, of cameras with two lenses, is a kind of JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
# What Pillow raises for damaged files, depending on the format and the place of the damage.
DAMAGED = (
    Image.DecompressionBombError, OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error, zlib.error,
    ArithmeticError, LookupError, AttributeError, MemoryError, RuntimeError,  # and NotImplementedError, a kind of it
)  # fmt: skip
# JPEGs are decoded at 1/2, 1/4 or 1/8 where they stay so many times as large as wanted; the resize evens out the rest.
DRAFT_MARGIN = 2
_ORIENTATION = 0x0112  # EXIF tag
_TILE_ROWS = 256  # of an image that is converted at once
# The upright image as its file has it, a view, for each EXIF orientation.
_LYING: dict[int, Callable[[RGB], RGB]] = {
    2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1), 8: lambda a: np.rot90(a, -1),
}  # fmt: skip
_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def read_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS, allow_urls: UrlPolicy = False) -> RGB:
    """Any image as RGB.

    EXIF orientation is applied; gray, palette, 16-bit and CMYK images are converted, transparency is laid
    over white, 16-bit gray 0..65535 becomes 0..255; of an animation the first image counts.

    Args:
        source: path, PIL image, or array: uint8, uint16 or bool (H, W); uint8 (H, W, 1), (H, W, 3) RGB or
            (H, W, 4) RGBA. An http(s) address only with allow_urls.
        max_pixels: larger images are refused before they are decoded.
        allow_urls: download addresses; "private" = those of this machine and its network, too.
    Returns:
        (H, W, 3) uint8, a copy of its own.
    Raises:
        ImageError: the image is missing, damaged, empty, too large or of another kind; names the source.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        return _decode(source, "the PIL image", max_pixels)
    if not isinstance(source, str | Path):
        raise ImageError(
            f"cannot read an image from {type(source).__name__}; "
            "give a path, a PIL image or a uint8 array (H, W, 3)"
        )
    # Imported here: loading a model need not wait for it.
    from cmpf.formats.addresses import download, is_address

    if is_address(str(source)):
        return decode_image(download(str(source), allow_urls), str(source), max_pixels=max_pixels)
    with _opened(_existing(source), str(source)) as image:
        return _decode(image, str(source), max_pixels)


def decode_image(content: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> RGB:
    """The image in the bytes of a file, as read_image gives it; `name` opens error messages."""
    with _opened(io.BytesIO(content), name) as image:
        return _decode(image, name, max_pixels)


def read_small_image(
    path: str | Path, *, short_side: int, max_side: int, max_pixels: int = MAX_PIXELS
) -> tuple[RGB, tuple[int, int]]:
    """An image's file by the rule of shortest_edge_size, and the size (H, W) that the image has in the file.

    Large JPEGs are decoded at a fraction of their size, which takes a third of the time. The result is that of
    read_image and resize_shortest_edge but for some gray values: on photographs one or two, at hard edges a few more.

    Raises:
        ImageError: as read_image.
    """
    with _opened(_existing(path), str(path)) as opened:
        size = _upright_size(opened)
        if opened.format == "JPEG":
            _check_size(*size, str(path), max_pixels)
            wanted = shortest_edge_size(opened.height, opened.width, short_side=short_side, max_side=max_side)
            opened.draft(None, (DRAFT_MARGIN * wanted[1], DRAFT_MARGIN * wanted[0]))
        image = _decode(opened, str(path), max_pixels)
    return resize_shortest_edge(image, short_side=short_side, max_side=max_side, size=size), size


def open_image(file: str | Path | io.BytesIO) -> Image.Image:
    """Image.open with the decoders of FORMATS only.

    Raises:
        OSError: the file cannot be opened, or is no regular file. UnidentifiedImageError, and others of DAMAGED: it is
            no image of these formats, or a damaged one.
    """
    if not isinstance(file, io.BytesIO) and Path(file).exists() and not Path(file).is_file():
        raise OSError(f"{file} is no regular file")  # reading a pipe would wait for good
    return Image.open(file, formats=_formats())


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow was built with; it fails on the names of others."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def read_image_size(path: str | Path) -> tuple[int, int]:
    """(H, W) of an image as read_image gives it, from the head of the file alone.

    Raises:
        ImageError: the file is missing or no image, or its head is damaged.
    """
    with _opened(_existing(path), str(path)) as opened:
        return _upright_size(opened)


def write_image(path: str | Path, image: Image.Image | NDArray[Any], **options: Any) -> Path:
    """Writes an image in the format that the path's ending names, whole or not at all; returns the path.

    Args:
        options: of the format, see Image.save.
    """
    pixels = image if isinstance(image, Image.Image) else Image.fromarray(image)
    with replacing(path) as temporary:
        pixels.save(temporary, **options)
    return Path(path)


def shortest_edge_size(height: int, width: int, *, short_side: int, max_side: int) -> tuple[int, int]:
    """(H, W) with the shorter side at `short_side`, or less where the longer one would exceed `max_side`.

    Scales twice where it must, as Detectron2's ResizeShortestEdge does: one multiplication rounds some sizes, such as
    391 x 1024 at 1024 / 2560, to the other side of one half.
    """
    scale = short_side / min(height, width)
    sides = [short_side if side == min(height, width) else side * scale for side in (height, width)]
    if max(sides) > max_side:
        again = max_side / max(sides)
        sides = [side * again for side in sides]
    return max(1, int(sides[0] + 0.5)), max(1, int(sides[1] + 0.5))


def resize_image(image: RGB, size: tuple[int, int]) -> RGB:
    """Bilinear, antialiased resize of (H, W, 3) to (H', W') = `size`."""
    if image.shape[:2] == size:
        return image
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_shortest_edge(
    image: RGB, *, short_side: int, max_side: int, size: tuple[int, int] | None = None
) -> RGB:
    """Resizes (H, W, 3) by the rule of shortest_edge_size; `size` = that of the image in its file, if it is another."""
    height, width = size or image.shape[:2]
    return resize_image(image, shortest_edge_size(height, width, short_side=short_side, max_side=max_side))


def _existing(source: str | Path) -> Path:
    """The path of a file that is there."""
    try:
        path = Path(source).expanduser()
        if path.is_file():
            return path
        if path.is_dir():
            issue = "is a folder; name an image in it"
        elif path.exists():
            issue = "is no regular file; name an image"
        else:
            issue = f"no such image (looked at {path.absolute()}); check the path"
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, an unknown ~user
        raise ImageError(f"{str(source)[:100]}: no usable path ({error}); check it") from error
    raise ImageError(f"{source}: {issue}")


def _opened(file: Path | io.BytesIO, name: str) -> Image.Image:
    """An image of which the head has been read."""
    try:
        return open_image(file)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: too large, {error}; make it smaller") from error
    except UnidentifiedImageError as error:
        size = file.getbuffer().nbytes if isinstance(file, io.BytesIO) else file.stat().st_size
        kinds = ", ".join(FORMATS)
        reason = f"not an image of a kind that is read ({kinds})" if size else "the file is empty"
        raise ImageError(f"{name}: {reason}; convert it to JPEG or PNG, or fetch it again") from error
    except DAMAGED as error:
        raise ImageError(f"{name}: cannot be opened ({error}); check or fetch it again") from error


def _decode(image: Image.Image, name: str, max_pixels: int) -> RGB:
    width, height = image.size
    _check_size(height, width, name, max_pixels)
    try:
        image.load()
        return _upright_rgb(image, name)
    except ImageError:
        raise
    except DAMAGED as error:
        raise ImageError(f"{name}: damaged or truncated ({error}); fetch or make it again") from error


def _upright_rgb(image: Image.Image, name: str) -> RGB:
    """In tiles of rows: Pillow's own conversions are copies with four bytes a pixel, some of them one after another."""
    upright = np.empty((*_upright_size(image), 3), dtype=np.uint8)
    lying = _LYING.get(_orientation(image), np.asarray)(upright)
    for top in range(0, image.height, _TILE_ROWS):
        tile = image.crop((0, top, image.width, min(top + _TILE_ROWS, image.height)))
        lying[top : top + tile.height] = np.asarray(_to_rgb(tile, name))
    return upright


def _check_size(height: int, width: int, name: str, max_pixels: int) -> None:
    if height == 0 or width == 0:
        raise ImageError(f"{name}: has no pixels, its size is {height} x {width} (H x W)")
    if height * width > max_pixels:
        raise ImageError(
            f"{name}: {height} x {width} (H x W) is more than {max_pixels:,} pixels; "
            "make it smaller or raise max_pixels"
        )


def _orientation(image: Image.Image) -> int:
    """How EXIF wants an image seen; damaged EXIF data do not spoil a whole image."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except DAMAGED:
        return 1


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """(H, W) of an image when it is seen upright."""
    return image.size if _orientation(image) in range(5, 9) else image.size[::-1]


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_MODES:
        return Image.fromarray(_gray_from_16_bit(np.asarray(image).astype(np.int64), name)).convert("RGB")
    if image.mode == "F":
        raise ImageError(f"{name}: holds floating-point gray values of unknown range; save it with 8 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _gray_from_16_bit(values: NDArray[np.int64], name: str) -> RGB:
    """0..65535 -> 0..255, rounded: 65535 / 257 = 255."""
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"{name}: gray values {values.min()}..{values.max()} do not fit 16 bits; save it with 8 bits"
        )
    return ((values + 128) // 257).astype(np.uint8)


def _from_array(array: NDArray[Any], max_pixels: int) -> RGB:
    name = f"the array of shape {array.shape} and type {array.dtype}"
    plane = array.ndim == 2
    if not (plane or (array.ndim == 3 and array.shape[2] in (1, 3, 4))):
        raise ImageError(f"{name}: expected (H, W, 3) RGB, (H, W) gray or (H, W, 4) RGBA, channels last")
    _check_size(array.shape[0], array.shape[1], name, max_pixels)
    if plane and array.dtype == np.uint16:
        array = _gray_from_16_bit(array.astype(np.int64), name)
    elif plane and array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.dtype != np.uint8:
        raise ImageError(
            f"{name}: expected uint8 values 0..255; convert it with (255 * array).astype('uint8') or alike"
        )
    if array.ndim == 3 and array.shape[2] == 3:
        return np.array(array, order="C")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return _upright_rgb(Image.fromarray(np.ascontiguousarray(array)), name)
