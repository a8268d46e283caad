# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Records as Parquet: one row per image, its segments a list, and what made them in the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmpf.common.files import replacing
from cmpf.errors import CMPFError, DatasetError, summary
from cmpf.labelling.record import ImageRecord, record_from

if TYPE_CHECKING:
    import pyarrow

METADATA_KEY = b"cmpf"  # of the file's metadata: a JSON object
ROW_GROUP = 500  # images: about 10 MB of run lengths, which is what reading and writing hold at a time


def import_pyarrow() -> Any:
    """The package.

    Raises:
        CMPFError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise CMPFError('Parquet files need pyarrow: pip install "cmpf[label]"') from error
    return pyarrow


def record_schema() -> pyarrow.Schema:
    """The columns of a file of records; `segments` is a list of structs with the fields of SegmentRecord."""
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


def table_of(records: Iterable[ImageRecord]) -> pyarrow.Table:
    """A table of records, one row each."""
    pa = import_pyarrow()
    return pa.Table.from_pylist([asdict(record) for record in records], schema=record_schema())


def records_of(table: pyarrow.Table, where: str = "table") -> Iterator[ImageRecord]:
    """The records of a table's rows; other columns are left out.

    Args:
        where: opens error messages.
    Raises:
        DatasetError: a column is missing, or a row is no record.
    """
    for place, row in enumerate(table.to_pylist()):
        yield record_from(row, f"{where}, row {place}")


def write_parquet(path: str | Path, records: Iterable[ImageRecord], metadata: Mapping[str, Any]) -> int:
    """Writes a file, whole or not at all, holding ROW_GROUP records at a time.

    Args:
        metadata: what made the records, as JSON takes it; see read_metadata.
    Returns:
        The number of records.
    """
    pa = import_pyarrow()
    from pyarrow import parquet

    text = json.dumps(metadata, ensure_ascii=False).encode()
    schema, rest, count = record_schema().with_metadata({METADATA_KEY: text}), iter(records), 0
    with replacing(path) as temporary, parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        while chunk := list(islice(rest, ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist([asdict(record) for record in chunk], schema=schema))
            count += len(chunk)
    return count


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What made a file's records: the configuration of the run, its vocabulary, weights and CMPF's version.

    Raises:
        DatasetError: the file is missing, damaged, or not of write_parquet.
    """
    found = _opened(path).schema_arrow.metadata or {}
    try:
        content = json.loads(found[METADATA_KEY])
    except (KeyError, ValueError) as error:
        raise DatasetError(f"{path}: a Parquet file, but none that cmpf label has written") from error
    return dict(content)


def read_uris(path: str | Path) -> Iterator[str]:
    """The uris of the images of a file that could be read; errors as read_parquet."""
    for table in _row_groups(path, ["uri", "error"]):
        rows = zip(table.column("uri").to_pylist(), table.column("error").to_pylist(), strict=True)
        yield from (uri for uri, error in rows if not error)


def read_parquet(path: str | Path) -> Iterator[ImageRecord]:
    """The records of a file, one row group in memory at a time.

    Raises:
        DatasetError: the file is missing or damaged, or a row is no record; names it.
    """
    for group, table in enumerate(_row_groups(path, record_schema().names)):
        yield from records_of(table, f"{path}, row group {group}")


def _row_groups(path: str | Path, columns: list[str]) -> Iterator[Any]:
    file = _opened(path)
    missing = [name for name in record_schema().names if name not in file.schema_arrow.names]
    if missing:
        raise DatasetError(f"{path}: has no column {', '.join(missing)}; give a file of cmpf label")
    for group in range(file.num_row_groups):
        try:
            yield file.read_row_group(group, columns=columns)
        except (OSError, ValueError) as error:
            raise DatasetError(f"{path}: damaged ({summary(error)}); make it again") from error


def find_parts(output: str | Path) -> Sequence[Path]:
    """The Parquet files of a labelled folder, in their order, or the one file that is named.

    Raises:
        DatasetError: there is none.
    """
    path = Path(output)
    parts = [path] if path.is_file() else sorted(path.glob("[!._]*.parquet"))
    if not parts:
        raise DatasetError(
            f"{output}: no Parquet file here; give the output folder of cmpf label, or one file of it"
        )
    return parts


def _opened(path: str | Path) -> Any:
    import_pyarrow()
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file; give a file of cmpf label") from error
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: no whole Parquet file ({summary(error)}); make it again") from error
