# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Reads and writes records as Parquet: one row per image, and the configuration of the run in the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmpf.common.files import replacing
from cmpf.errors import CMPFError, DatasetError, summary
from cmpf.labelling.record import ImageRecord, record_from_dict

if TYPE_CHECKING:
    import pyarrow

METADATA_KEY = b"cmpf"  # its value in the file's metadata is a JSON object
ROW_GROUP_SIZE = 500  # images; about 10 MB of run lengths, which are in memory at a time


def import_pyarrow() -> Any:
    """Imports pyarrow.

    Raises:
        CMPFError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise CMPFError('Parquet files need pyarrow: pip install "cmpf[label]"') from error
    return pyarrow


def record_schema() -> pyarrow.Schema:
    """The schema of a table of records; `segments` is a list of structs with the fields of SegmentRecord."""
    pa = import_pyarrow()
    segment = pa.struct(
        [
            ("id", pa.int32()),
            ("category_id", pa.int32()),
            ("category", pa.string()),
            ("isthing", pa.bool_()),
            ("score", pa.float64()),
            ("area", pa.int64()),
            ("bbox", pa.list_(pa.float64(), 4)),
            ("size", pa.list_(pa.int32(), 2)),
            ("counts", pa.string()),
            ("source", pa.string()),
            ("task", pa.string()),
        ]
    )
    return pa.schema(
        [
            ("uri", pa.string()),
            ("sha256", pa.string()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("segments", pa.list_(segment)),
            ("error", pa.string()),
        ]
    )


def records_to_table(records: Iterable[ImageRecord], schema: pyarrow.Schema | None = None) -> pyarrow.Table:
    """A table with one row per record.

    Args:
        schema: record_schema with metadata; None = without.
    """
    rows = [
        {**asdict(record), "uri": to_utf8(record.uri), "error": to_utf8(record.error)} for record in records
    ]
    return import_pyarrow().Table.from_pylist(rows, schema=schema or record_schema())


def to_utf8(text: str) -> str:
    """Escapes bytes of file names that are not valid UTF-8, which no table can hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def table_to_records(table: pyarrow.Table, where: str = "table") -> Iterator[ImageRecord]:
    """The records of a table's rows; ignores other columns.

    Args:
        where: start of error messages.
    Raises:
        DatasetError: a column is missing, or a row is not a record.
    """
    for index, row in enumerate(table.to_pylist()):
        yield record_from_dict(row, f"{where}, row {index}")


def write_parquet(path: str | Path, records: Iterable[ImageRecord], metadata: Mapping[str, Any]) -> int:
    """Writes a file atomically, with ROW_GROUP_SIZE records in memory at a time.

    Args:
        metadata: JSON-serializable; see read_metadata.
    Returns:
        The number of records.
    """
    import_pyarrow()
    from pyarrow import parquet

    text = json.dumps(metadata, ensure_ascii=False).encode()
    schema = record_schema().with_metadata({METADATA_KEY: text})
    iterator, count = iter(records), 0
    with replacing(path) as temporary, parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        while chunk := list(islice(iterator, ROW_GROUP_SIZE)):
            writer.write_table(records_to_table(chunk, schema))
            count += len(chunk)
    return count


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The configuration of the run that wrote a file: vocabulary, weights, settings and CMPF's version.

    Raises:
        DatasetError: the file is missing, damaged, or not written by write_parquet.
    """
    metadata = _open_parquet(path).schema_arrow.metadata or {}
    try:
        content = json.loads(metadata[METADATA_KEY])
    except (KeyError, ValueError) as error:
        raise DatasetError(f"{path}: a Parquet file, but none that cmpf label has written") from error
    return dict(content)


def read_uris(path: str | Path) -> Iterator[str]:
    """The URIs of the images without an error; raises what read_parquet raises."""
    for table in _row_groups(path, ["uri", "error"]):
        rows = zip(table.column("uri").to_pylist(), table.column("error").to_pylist(), strict=True)
        yield from (uri for uri, error in rows if not error)


def read_parquet(path: str | Path) -> Iterator[ImageRecord]:
    """Yields the records of a file, with one row group in memory at a time.

    Raises:
        DatasetError: the file is missing or damaged, or a row is not a record; names the row.
    """
    for group, table in enumerate(_row_groups(path, record_schema().names)):
        yield from table_to_records(table, f"{path}, row group {group}")


def find_parts(output: str | Path) -> Sequence[Path]:
    """The Parquet files of an output folder of cmpf label, sorted by name; or the given file alone.

    Raises:
        DatasetError: the folder has no Parquet file.
    """
    path = Path(output)
    parts = [path] if path.is_file() else sorted(path.glob("[!._]*.parquet"))
    if not parts:
        raise DatasetError(
            f"{output}: no Parquet file here; give the output folder of cmpf label, or one file of it"
        )
    return parts


def _row_groups(path: str | Path, columns: list[str]) -> Iterator[Any]:
    file = _open_parquet(path)
    missing = [name for name in record_schema().names if name not in file.schema_arrow.names]
    if missing:
        raise DatasetError(f"{path}: has no column {', '.join(missing)}; give a file of cmpf label")
    for group in range(file.num_row_groups):
        try:
            yield file.read_row_group(group, columns=columns)
        except (OSError, ValueError) as error:
            raise DatasetError(f"{path}: damaged ({summary(error)}); make it again") from error


def _open_parquet(path: str | Path) -> Any:
    import_pyarrow()
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file; give a file of cmpf label") from error
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: no whole Parquet file ({summary(error)}); make it again") from error
