# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Reads images from containers: WebDataset tars, and Parquet or Arrow tables with images or their addresses."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from cmpf.common.files import IMAGE_SUFFIXES
from cmpf.errors import ImageError, summary
from cmpf.formats.addresses import MAX_DOWNLOAD
from cmpf.labelling.parquet import import_pyarrow, to_utf8
from cmpf.labelling.remote import open_remote

TARS = (".tar", ".tar.gz", ".tgz")
TABLES = (".parquet", ".arrow")
# Columns that may hold addresses, if no column holds bytes.
ADDRESS_COLUMNS = ("uri", "url", "path", "file_name", "image", "image_path", "image_url", "address")
ROWS_IN_MEMORY = 32

UriFilter: TypeAlias = Callable[[str], bool]
# The URI of an image; and the bytes of its file, an address to read them from, or an error.
ContainerImage: TypeAlias = "tuple[str, bytes | str | ImageError]"


def is_container(name: str) -> bool:
    """Whether a file name has the suffix of a container."""
    return name.lower().endswith((*TARS, *TABLES))


def container_images(
    address: str, is_wanted: UriFilter, *, column: str | None = None
) -> Iterator[ContainerImage]:
    """Reads the images of a tar or table, in order.

    Args:
        address: a path, or an address that fsspec knows.
        is_wanted: whether to read the image with a given URI.
        column: table column with images or addresses; None = found by type and name, see ADDRESS_COLUMNS.
    Yields:
        From a tar, "tar://MEMBER::ADDRESS", which fsspec can open, and the bytes of the member. From a table,
        "ADDRESS#ROW" and the bytes of the cell; or for a cell with an address, the address twice.
    Raises:
        ImageError: the container is missing, damaged or truncated; raised after the images before the damage.
        UnreachableError: see cmpf.labelling.remote.
    """
    if address.lower().endswith(TARS):
        return _tar_images(address, is_wanted)
    return _table_images(address, is_wanted, column)


def _tar_images(address: str, is_wanted: UriFilter) -> Iterator[ContainerImage]:
    number = 0
    try:
        with ExitStack() as stack:
            if "://" in address:  # as a stream: seeking in a remote file costs more than reading on
                tar = stack.enter_context(
                    tarfile.open(fileobj=stack.enter_context(open_remote(address)), mode="r|*")
                )
            else:
                tar = stack.enter_context(tarfile.open(Path(address).expanduser(), mode="r:*"))
            for member in tar:
                number += 1
                uri = to_utf8(f"tar://{member.name}::{address}")
                if member.isfile() and _is_image(member.name) and is_wanted(uri):
                    yield uri, _read_member(tar, member, uri)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ImageError(
            f"{address}: no whole tar, damaged after {number} members ({summary(error, 150)}); fetch it again"
        ) from error


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo, uri: str) -> bytes | ImageError:
    if member.size > MAX_DOWNLOAD:
        return ImageError(
            f"{uri}: {member.size:,} bytes, and up to {MAX_DOWNLOAD:,} are read; make it smaller"
        )
    file = tar.extractfile(member)
    content = file.read() if file else b""
    if len(content) < member.size:
        raise tarfile.ReadError(f"{len(content):,} of {member.size:,} bytes of {uri}")
    return content


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _table_images(address: str, is_wanted: UriFilter, column: str | None) -> Iterator[ContainerImage]:
    import_pyarrow()
    row = 0
    try:
        with ExitStack() as stack:
            file: Any = (
                stack.enter_context(open_remote(address))
                if "://" in address
                else str(Path(address).expanduser())
            )
            for values in _column_values(address, file, column):
                for value in values:
                    image = _cell_image(address, row, value)
                    if is_wanted(image[0]):
                        yield image
                    row += 1
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(
            f"{address}: damaged after row {row} ({summary(error, 150)}); make it again"
        ) from error


def _column_values(address: str, file: Any, column: str | None) -> Iterator[list[Any]]:
    """The values of the image column, ROWS_IN_MEMORY at a time."""
    if address.lower().endswith(".parquet"):
        from pyarrow import parquet

        table = parquet.ParquetFile(file)
        name = _image_column(table.schema_arrow, column, address)
        for batch in table.iter_batches(batch_size=ROWS_IN_MEMORY, columns=[name]):
            yield batch.column(0).to_pylist()
        return
    import pyarrow as pa

    with pa.OSFile(file) if isinstance(file, str) else pa.PythonFile(file) as source:
        try:
            reader = pa.ipc.open_stream(source)  # the format of Hugging Face datasets
        except ValueError:
            source.seek(0)
            reader = pa.ipc.open_file(source)
        name = _image_column(reader.schema, column, address)
        batches = (
            (reader.get_batch(i) for i in range(reader.num_record_batches))
            if hasattr(reader, "get_batch")
            else reader
        )
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS_IN_MEMORY):
                yield batch.column(name).slice(start, ROWS_IN_MEMORY).to_pylist()


def _image_column(schema: Any, column: str | None, address: str) -> str:
    """The name of the column with images, or else addresses.

    Raises:
        ImageError: there is no such column, or more than one.
    """
    import pyarrow as pa

    def holds_bytes(dtype: Any) -> bool:
        if pa.types.is_struct(dtype):  # the Image feature of Hugging Face datasets
            return bool({field.name for field in dtype} >= {"bytes", "path"})
        return bool(pa.types.is_binary(dtype) or pa.types.is_large_binary(dtype))

    dtypes = {field.name: field.type for field in schema}
    if column is not None:
        if column in dtypes:
            return column
        raise ImageError(f"{address}: has no column {column!r}; its columns are {', '.join(dtypes)}")
    images = [name for name, dtype in dtypes.items() if holds_bytes(dtype)]
    addresses = [name for name in ADDRESS_COLUMNS if name in dtypes]
    if len(images) == 1 or (addresses and not images):
        return (images or addresses)[0]
    issue = f"several columns of bytes, {', '.join(images)}" if images else "no column of images or addresses"
    raise ImageError(f"{address}: {issue}; name one of {', '.join(dtypes)} with --column")


def _cell_image(address: str, row: int, value: Any) -> ContainerImage:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value:
        return to_utf8(value), value
    uri = f"{to_utf8(address)}#{row}"
    if isinstance(value, bytes):
        return uri, value
    return uri, ImageError(
        f"{uri}: {'nothing' if value is None else type(value).__name__} in place of an image"
    )
