# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Reads image files of any format as (H, W, 3) uint8 RGB, and resizes them to the model's input size."""

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
SINGLE = (str, Path, Image.Image, np.ndarray)  # ImageSource for isinstance

MAX_PIXELS = 89_478_485  # a quarter of a gigabyte as RGB; Pillow's threshold for decompression bomb warnings
# Formats that Pillow may decode, whatever the file name says. Only common, maintained decoders that start no other
# program (EPS would start Ghostscript). MPO (two-lens cameras) is opened as JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
# Exceptions that Pillow raises for damaged files, depending on the format and the kind of damage.
DAMAGED = (
    Image.DecompressionBombError, OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error, zlib.error,
    ArithmeticError, LookupError, AttributeError, MemoryError, RuntimeError,  # includes NotImplementedError
)  # fmt: skip
# A JPEG is decoded at 1/2, 1/4 or 1/8 scale if the result is still this many times as large as the requested size.
DRAFT_MARGIN = 2
_ORIENTATION = 0x0112  # EXIF tag
_TILE_ROWS = 256  # rows converted to RGB at a time
# EXIF orientation -> function that views the upright image in the pixel order of the file.
_FILE_ORDER_VIEWS: dict[int, Callable[[RGB], RGB]] = {
    2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1), 8: lambda a: np.rot90(a, -1),
}  # fmt: skip
_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def read_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS, allow_urls: UrlPolicy = False) -> RGB:
    """Reads any image as RGB.

    Applies the EXIF orientation; converts gray, palette, 16-bit and CMYK images; composites transparency over
    white; scales 16-bit gray 0..65535 to 0..255; reads the first frame of an animation.

    Args:
        source: path, PIL image, or array: uint8, uint16 or bool (H, W); uint8 (H, W, 1), (H, W, 3) RGB or
            (H, W, 4) RGBA. An http(s) URL only with allow_urls.
        max_pixels: larger images are rejected before they are decoded.
        allow_urls: download URLs; "private" also allows hosts in the local network and this machine.
    Returns:
        (H, W, 3) uint8, a copy.
    Raises:
        ImageError: the image is missing, damaged, empty, too large or of an unsupported format; names the source.
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
    # Imported here to keep loading a model fast.
    from cmpf.formats.addresses import download, is_address

    if is_address(str(source)):
        return decode_image(download(str(source), allow_urls), str(source), max_pixels=max_pixels)
    with _opened(_existing(source), str(source)) as image:
        return _decode(image, str(source), max_pixels)


def decode_image(content: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> RGB:
    """Decodes the bytes of an image file as read_image does; error messages start with `name`."""
    with _opened(io.BytesIO(content), name) as image:
        return _decode(image, name, max_pixels)


def read_small_image(
    path: str | Path, *, short_side: int, max_side: int, max_pixels: int = MAX_PIXELS
) -> tuple[RGB, tuple[int, int]]:
    """Reads an image file resized by the rule of shortest_edge_size; also returns its original size (H, W).

    Large JPEGs are decoded at reduced scale, which takes a third of the time. The result equals read_image followed
    by resize_shortest_edge up to one or two gray levels on photographs, a few more at hard edges.

    Raises:
        ImageError: as read_image.
    """
    with _opened(_existing(path), str(path)) as opened:
        size = _upright_size(opened)
        if opened.format == "JPEG":
            _check_size(*size, str(path), max_pixels)
            target = shortest_edge_size(opened.height, opened.width, short_side=short_side, max_side=max_side)
            opened.draft(None, (DRAFT_MARGIN * target[1], DRAFT_MARGIN * target[0]))
        image = _decode(opened, str(path), max_pixels)
    return resize_shortest_edge(image, short_side=short_side, max_side=max_side, size=size), size


def open_image(file: str | Path | io.BytesIO) -> Image.Image:
    """Image.open restricted to the decoders in FORMATS.

    Raises:
        OSError: the file cannot be opened, or is no regular file.
        UnidentifiedImageError: the file is not an image of these formats.
        OSError, ...: any of DAMAGED, for a damaged file.
    """
    if not isinstance(file, io.BytesIO) and Path(file).exists() and not Path(file).is_file():
        raise OSError(f"{file} is no regular file")  # reading a pipe would block forever
    return Image.open(file, formats=_formats())


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """The FORMATS that this build of Pillow supports; Image.open fails on other names."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def read_image_size(path: str | Path) -> tuple[int, int]:
    """The size (H, W) that read_image would return, from the file header alone.

    Raises:
        ImageError: the file is missing or no image, or its header is damaged.
    """
    with _opened(_existing(path), str(path)) as opened:
        return _upright_size(opened)


def write_image(
    path: str | Path, image: Image.Image | NDArray[Any], *, durable: bool = True, **options: Any
) -> Path:
    """Writes an image atomically, in the format of the path's suffix; returns the path.

    Args:
        durable: see replacing.
        options: format options, see Image.save.
    """
    pixels = image if isinstance(image, Image.Image) else Image.fromarray(image)
    with replacing(path, durable=durable) as temporary:
        pixels.save(temporary, **options)
    return Path(path)


def shortest_edge_size(height: int, width: int, *, short_side: int, max_side: int) -> tuple[int, int]:
    """The size (H, W) with the shorter side at `short_side`, or less where the longer one would exceed `max_side`.

    Scales in two steps, as Detectron2's ResizeShortestEdge does: a single multiplication rounds some sizes, such as
    391 x 1024 at 1024 / 2560, differently.
    """
    scale = short_side / min(height, width)
    sides = [short_side if side == min(height, width) else side * scale for side in (height, width)]
    if max(sides) > max_side:
        scale = max_side / max(sides)
        sides = [side * scale for side in sides]
    return max(1, int(sides[0] + 0.5)), max(1, int(sides[1] + 0.5))


def resize_image(image: RGB, size: tuple[int, int]) -> RGB:
    """Resizes (H, W, 3) to (H', W') = `size`, bilinear with antialiasing; returns `image` itself if sizes are equal."""
    if image.shape[:2] == size:
        return image
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_shortest_edge(
    image: RGB, *, short_side: int, max_side: int, size: tuple[int, int] | None = None
) -> RGB:
    """Resizes (H, W, 3) by the rule of shortest_edge_size, applied to `size` (H, W) if given instead of the image's."""
    height, width = size or image.shape[:2]
    return resize_image(image, shortest_edge_size(height, width, short_side=short_side, max_side=max_side))


def _existing(source: str | Path) -> Path:
    """The path of an existing file; an ImageError otherwise."""
    try:
        path = Path(source).expanduser()
        if path.is_file():
            return path
        if path.is_dir() and source != "":
            issue = "is a folder; name an image in it"
        elif path.exists():
            issue = "is no regular file; name an image"
        else:
            issue = f"no such image (looked at {path.absolute()}); check the path"
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, an unknown ~user
        raise ImageError(f"{str(source)[:100]}: no usable path ({error}); check it") from error
    raise ImageError(f"{source or repr(source)}: {issue}")


def _opened(file: Path | io.BytesIO, name: str) -> Image.Image:
    """Opens an image and reads its header; an ImageError if that fails."""
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
    """Converts in tiles of rows, because Pillow's conversions make one or more copies with four bytes per pixel."""
    upright = np.empty((*_upright_size(image), 3), dtype=np.uint8)
    rows = _FILE_ORDER_VIEWS.get(_orientation(image), np.asarray)(upright)
    for top in range(0, image.height, _TILE_ROWS):
        tile = image.crop((0, top, image.width, min(top + _TILE_ROWS, image.height)))
        rows[top : top + tile.height] = np.asarray(_to_rgb(tile, name))
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
    """EXIF orientation 1..8; 1 (upright) where the EXIF data are damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except DAMAGED:
        return 1


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """(H, W) of an image after its EXIF orientation is applied."""
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
    gray = array.ndim == 2
    if not (gray or (array.ndim == 3 and array.shape[2] in (1, 3, 4))):
        raise ImageError(f"{name}: expected (H, W, 3) RGB, (H, W) gray or (H, W, 4) RGBA, channels last")
    _check_size(array.shape[0], array.shape[1], name, max_pixels)
    if gray and array.dtype == np.uint16:
        array = _gray_from_16_bit(array.astype(np.int64), name)
    elif gray and array.dtype == np.bool_:
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
