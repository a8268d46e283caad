# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Files of many images: tars as WebDataset has them, and tables with a column of images or of their addresses."""

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
from cmpf.labelling.parquet import import_pyarrow
from cmpf.labelling.remote import opened_remote

TARS = (".tar", ".tar.gz", ".tgz")
TABLES = (".parquet", ".arrow")
# Columns that hold addresses where no column holds images.
ADDRESS_COLUMNS = ("uri", "url", "path", "file_name", "image", "image_path", "image_url", "address")
ROWS = 32  # of a table that are in memory at a time

Wanted: TypeAlias = Callable[[str], bool]
# The uri of an image, and its bytes, the address where they are, or why there are none.
Found: TypeAlias = "tuple[str, bytes | str | ImageError]"


def is_container(name: str) -> bool:
    """Whether a file holds many images, by its ending."""
    return name.lower().endswith((*TARS, *TABLES))


def container_images(address: str, wanted: Wanted, *, column: str | None = None) -> Iterator[Found]:
    """The images of a tar or table, in its order.

    Args:
        address: a path, or an address that fsspec knows.
        wanted: whether the image of a uri is to be read; others are passed over.
        column: of a table: which one holds the images or addresses; None = the one that can be.
    Yields:
        From a tar "tar://MEMBER::ADDRESS", by which fsspec opens the image, and its bytes; from a table
        "ADDRESS#ROW" and the bytes, or from a column of addresses the address twice.
    Raises:
        ImageError: the container is missing, damaged or cut off, after what could be read of it; names it.
        UnreachableError: see cmpf.labelling.remote.
    """
    if address.lower().endswith(TARS):
        return _tar_images(address, wanted)
    return _table_images(address, wanted, column)


def _tar_images(address: str, wanted: Wanted) -> Iterator[Found]:
    number = 0
    try:
        with ExitStack() as stack:
            if "://" in address:  # read as a stream: to jump costs more than to read on
                tar = stack.enter_context(
                    tarfile.open(fileobj=stack.enter_context(opened_remote(address)), mode="r|*")
                )
            else:
                tar = stack.enter_context(tarfile.open(Path(address).expanduser(), mode="r:*"))
            for member in tar:
                number += 1
                uri = plain_text(f"tar://{member.name}::{address}")
                if member.isfile() and _is_image(member.name) and wanted(uri):
                    yield uri, _member(tar, member, uri)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ImageError(
            f"{address}: no whole tar, damaged after {number} members ({summary(error, 150)}); fetch it again"
        ) from error


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo, uri: str) -> bytes | ImageError:
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


def _table_images(address: str, wanted: Wanted, column: str | None) -> Iterator[Found]:
    import_pyarrow()
    row = 0
    try:
        with ExitStack() as stack:
            file: Any = (
                stack.enter_context(opened_remote(address))
                if "://" in address
                else str(Path(address).expanduser())
            )
            for batch in _batches(address, file, column):
                for value in batch:
                    found = _cell(address, row, value)
                    if wanted(found[0]):
                        yield found
                    row += 1
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(
            f"{address}: damaged after row {row} ({summary(error, 150)}); make it again"
        ) from error


def _batches(address: str, file: Any, column: str | None) -> Iterator[list[Any]]:
    """The values of the column, some rows at a time."""
    if address.lower().endswith(".parquet"):
        from pyarrow import parquet

        table = parquet.ParquetFile(file)
        name = _image_column(table.schema_arrow, column, address)
        for batch in table.iter_batches(batch_size=ROWS, columns=[name]):
            yield batch.column(0).to_pylist()
        return
    import pyarrow as pa

    with pa.OSFile(file) if isinstance(file, str) else pa.PythonFile(file) as source:
        try:
            reader = pa.ipc.open_stream(source)  # what Hugging Face's datasets write
        except ValueError:
            source.seek(0)
            reader = pa.ipc.open_file(source)
        name = _image_column(reader.schema, column, address)
        whole = (
            (reader.get_batch(i) for i in range(reader.num_record_batches))
            if hasattr(reader, "get_batch")
            else reader
        )
        for batch in whole:
            for start in range(0, batch.num_rows, ROWS):
                yield batch.column(name).slice(start, ROWS).to_pylist()


def _image_column(schema: Any, column: str | None, address: str) -> str:
    """The column that holds images, or else addresses.

    Raises:
        ImageError: there is none, there are several, or none of the given name.
    """
    import pyarrow as pa

    def holds_bytes(kind: Any) -> bool:
        if pa.types.is_struct(kind):  # an image of Hugging Face's datasets: bytes and path
            return bool({field.name for field in kind} >= {"bytes", "path"})
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    names = {field.name: field.type for field in schema}
    if column is not None:
        if column in names:
            return column
        raise ImageError(f"{address}: has no column {column!r}; its columns are {', '.join(names)}")
    images = [name for name, kind in names.items() if holds_bytes(kind)]
    addresses = [name for name in ADDRESS_COLUMNS if name in names]
    if len(images) == 1 or (addresses and not images):
        return (images or addresses)[0]
    found = f"several columns of bytes, {', '.join(images)}" if images else "no column of images or addresses"
    raise ImageError(f"{address}: {found}; name one of {', '.join(names)} with --column")


def _cell(address: str, row: int, value: Any) -> Found:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value:
        return plain_text(value), value
    uri = f"{plain_text(address)}#{row}"
    if isinstance(value, bytes):
        return uri, value
    return uri, ImageError(
        f"{uri}: {'nothing' if value is None else type(value).__name__} in place of an image"
    )


def plain_text(name: str) -> str:
    """A name without the characters that stand for bytes that are no UTF-8, which no table can hold."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
