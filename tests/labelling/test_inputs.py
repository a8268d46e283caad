# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Folders, addresses, tars and tables give their images, each once, whatever else is in them."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from cmpf.errors import ImageError
from cmpf.labelling import inputs, remote
from cmpf.labelling.inputs import Item, divide, read_address, read_shard, shard_of
from cmpf.labelling.remote import UnreachableError


def image(seed: int) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (8, 10, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def read(*given: str | Path, count: int = 1, index: int = 0, **options: str | None) -> list[Item]:
    (shard,) = divide([str(one) for one in given], count=count, only=index)
    return list(read_shard(shard, **options))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub/deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "folder.png").mkdir()  # no image
    for seed, name in enumerate(("b.png", "a.jpg", "sub/a.jpg", "sub/deep/c.webp", ".hidden/d.png", "image")):
        (folder / name).write_bytes(image(seed))
    return folder


def test_a_folder_gives_all_images_below_it_by_name(photos: Path) -> None:
    items = read(photos)
    assert [item.uri for item in items] == [
        f"{photos}/{n}" for n in ("a.jpg", "b.png", "sub/a.jpg", "sub/deep/c.webp")
    ]
    assert items[1].content == image(0)
    assert items[1].sha256 == hashlib.sha256(image(0)).hexdigest()


def test_a_pattern_and_a_file_of_any_ending_are_taken_and_each_image_once(photos: Path) -> None:
    items = read(f"{photos}/*.png", photos / "b.png", photos / "image")
    assert [Path(item.uri).name for item in items] == ["b.png", "image"]


@pytest.mark.parametrize(("ending", "mode"), [("tar", "w"), ("tar.gz", "w:gz")])
def test_a_tar_gives_its_images_by_addresses_that_fsspec_opens(
    tmp_path: Path, ending: str, mode: str
) -> None:
    members = {"0001.jpg": image(1), "0001.json": b"{}", "sub/0002.png": image(2), "sub/.0003.png": image(3)}
    path = make_tar(tmp_path / f"x.{ending}", members, mode)
    items = read(path)
    assert [item.uri for item in items] == [f"tar://0001.jpg::{path}", f"tar://sub/0002.png::{path}"]
    assert [item.content for item in items] == [image(1), image(2)]
    if ending == "tar":
        assert read_address(items[1].uri) == image(2)


def test_a_tar_that_is_cut_off_keeps_what_is_whole_and_says_so(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "x.tar", {f"{i}.png": image(i) for i in range(5)})
    path.write_bytes(path.read_bytes()[:1600])  # members of a header of 512 bytes and a content of about 310
    *whole, last = read(path)
    assert [item.content for item in whole] == [image(0)]
    assert last.uri == str(path)
    assert last.error.startswith(f"{path}: no whole tar, damaged after 2 members")


def write_table(path: Path, table: pa.Table) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=2)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
def test_a_table_with_bytes_names_images_by_file_and_row(tmp_path: Path, ending: str) -> None:
    table = pa.table({"label": [1, 2, 3], "picture": [image(1), None, image(3)]})
    path = write_table(tmp_path / f"t{ending}", table)
    items = read(path)
    assert [item.uri for item in items] == [f"{path}#0", f"{path}#1", f"{path}#2"]
    assert [item.content for item in items] == [image(1), b"", image(3)]
    assert items[1].error == f"{path}#1: nothing in place of an image"


def test_a_table_of_the_kind_that_hugging_face_writes_is_read(tmp_path: Path) -> None:
    (tmp_path / "c.png").write_bytes(image(7))
    rows = [{"bytes": image(5), "path": "a.png"}, {"bytes": None, "path": str(tmp_path / "c.png")}]
    path = write_table(tmp_path / "t.parquet", pa.table({"image": rows}))
    items = read(path)
    assert [item.uri for item in items] == [f"{path}#0", str(tmp_path / "c.png")]
    assert [item.content for item in items] == [image(5), image(7)]


def test_a_table_of_addresses_is_read_and_a_missing_file_is_one_row(photos: Path) -> None:
    names = [str(photos / "b.png"), str(photos / "gone.png"), str(photos / "b.png")]
    path = write_table(photos.parent / "t.parquet", pa.table({"url": names, "text": ["a", "b", "c"]}))
    good, missing = read(path)
    assert good.content == image(0)
    assert missing.error.startswith(f"{names[1]}: no such file")


def test_the_column_is_chosen_or_asked_for(tmp_path: Path) -> None:
    two = write_table(tmp_path / "two.parquet", pa.table({"left": [image(1)], "right": [image(2)]}))
    none = write_table(tmp_path / "none.parquet", pa.table({"label": [1]}))
    assert read(two, column="right")[0].content == image(2)
    assert (
        "several columns of bytes, left, right; name one of left, right with --column" in read(two)[0].error
    )
    assert "no column of images or addresses; name one of label" in read(none)[0].error
    assert "has no column 'middle'; its columns are left, right" in read(two, column="middle")[0].error


def test_a_damaged_table_is_one_row_with_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1 is not enough")
    (item,) = read(path)
    assert item.uri == str(path)
    assert item.error.startswith(f"{path}: damaged after row 0")


def test_a_dataset_that_hugging_face_saved_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    source = {"image": [Image.open(io.BytesIO(image(seed))) for seed in (1, 2, 3)], "label": [0, 1, 2]}
    made = datasets.Dataset.from_dict(source).cast_column("image", datasets.Image())
    datasets.DatasetDict({"train": made}).save_to_disk(tmp_path / "saved")
    items = read(tmp_path / "saved")
    assert len(items) == 3
    for seed, item in enumerate(items, start=1):
        found = np.asarray(Image.open(io.BytesIO(item.content)))
        assert np.array_equal(found, np.asarray(Image.open(io.BytesIO(image(seed)))))


@pytest.fixture
def bucket(tmp_path: Path) -> str:
    system = fsspec.filesystem("memory")
    system.store.clear()
    for seed, name in enumerate(("a.png", "sub/b.png", "readme.md")):
        system.pipe(f"/bucket/{name}", image(seed))
    tar = make_tar(tmp_path / "c.tar", {"0.png": image(5), "1.png": image(6)})
    system.pipe("/bucket/c.tar", tar.read_bytes())
    return "memory://bucket/"


def test_a_bucket_is_read_as_a_folder_is(bucket: str) -> None:
    items = read(bucket)
    assert [item.uri for item in items] == [
        "memory:///bucket/a.png",
        "memory:///bucket/sub/b.png",
        "tar://0.png::memory:///bucket/c.tar",
        "tar://1.png::memory:///bucket/c.tar",
    ]
    assert [item.content for item in items] == [image(0), image(1), image(5), image(6)]
    assert [item.uri for item in read("memory://bucket/*.png")] == ["memory:///bucket/a.png"]


def test_nothing_at_an_address_and_unknown_or_missing_systems_are_one_line(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ImageError, match=r"memory://bucket/none/: nothing is there; check the address"):
        read("memory://bucket/none/")
    with pytest.raises(UnreachableError, match=r"nowhere://bucket/: .*Protocol not known: nowhere"):
        read("nowhere://bucket/")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UnreachableError, match=r"s3://bucket/: .*Install s3fs.*pip install"):
        read("s3://bucket/")


def unreachable(monkeypatch: pytest.MonkeyPatch, after: int) -> list[str]:
    """Breaks the memory file system after some files; gives the names that were asked for."""
    from fsspec.implementations.memory import MemoryFileSystem

    asked: list[str] = []
    whole = MemoryFileSystem._open

    def _open(self: MemoryFileSystem, path: str, *args: object, **options: object) -> object:
        asked.append(path)
        if len(asked) > after:
            raise ConnectionError("no route to host")
        return whole(self, path, *args, **options)

    monkeypatch.setattr(MemoryFileSystem, "_open", _open)
    monkeypatch.setattr(remote, "RETRY_DELAYS", (0.0, 0.0))
    return asked


def test_a_read_that_fails_is_tried_again_and_a_bucket_that_is_gone_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = fsspec.filesystem("memory")
    system.store.clear()
    for number in range(40):
        system.pipe(f"/bucket/{number:02}.png", image(number))
    monkeypatch.setattr(inputs, "NUM_READERS", 1)
    asked = unreachable(monkeypatch, after=5)
    (shard,) = divide(["memory://bucket/"], count=1)
    items: list[Item] = []
    with pytest.raises(
        UnreachableError, match=r"no route to host.*\(10 images in a row .*; call again to go on\)"
    ):
        items.extend(read_shard(shard))
    assert asked[5:8] == ["/bucket/05.png"] * 3
    assert len(asked) <= 5 + 3 * 13  # and not the rest


@pytest.mark.parametrize("ending", [".tar", ".parquet"])
@pytest.mark.parametrize("failures", [2, 99])
def test_trouble_with_the_network_is_no_damage_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, failures: int
) -> None:
    from fsspec.implementations.memory import MemoryFile

    images = [image(seed) for seed in range(4)]
    if ending == ".tar":
        path = make_tar(tmp_path / "c.tar", {f"{i}.png": content for i, content in enumerate(images)})
    else:
        path = write_table(tmp_path / "c.parquet", pa.table({"image": images}))
    fsspec.filesystem("memory").pipe(f"/bucket/c{ending}", path.read_bytes())
    whole, calls = MemoryFile.read, [0]

    def fails(self: MemoryFile, size: int = -1) -> bytes:
        calls[0] += 1
        if 1 < calls[0] <= 1 + failures:
            raise ConnectionError("reset by peer")
        return whole(self, size)

    monkeypatch.setattr(MemoryFile, "read", fails, raising=False)
    monkeypatch.setattr(remote, "RETRY_DELAYS", (0.0, 0.0))
    address = f"memory:///bucket/c{ending}"
    if failures == 2:
        assert [item.content for item in read(address)] == images
    else:
        with pytest.raises(UnreachableError, match=r"cannot be reached .ConnectionError: reset by peer"):
            read(address)


def test_a_bucket_that_cannot_be_asked_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    def isdir(self: MemoryFileSystem, path: str) -> bool:
        raise OSError("Could not connect to the endpoint URL")

    monkeypatch.setattr(MemoryFileSystem, "isdir", isdir)
    with pytest.raises(UnreachableError, match=r"memory://b/: cannot be reached .OSError: Could not connect"):
        read("memory://b/")


def test_shards_share_the_images_whatever_else_is_added(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    for number in range(60):
        (photos / f"{number}.png").write_bytes(image(number))
    shards = [[item.uri for item in read(".", count=4, index=index)] for index in range(4)]
    everything = [item.uri for item in read(".")]
    assert sorted(uri for shard in shards for uri in shard) == sorted(everything)
    assert min(map(len, shards)) >= 8  # of 64 / 4 = 16 on average
    (photos / "0000_new.png").write_bytes(image(99))
    again = [[item.uri for item in read(".", count=4, index=index)] for index in range(4)]
    new = [sorted(set(later) - set(first)) for first, later in zip(shards, again, strict=True)]
    assert sum(map(len, new)) == 1


def test_the_shard_of_an_image_never_changes() -> None:
    # 'photos/a.jpg' -> blake2b, 8 bytes, as a whole number modulo 8: worked out once; another rule would spoil resumes.
    digest = hashlib.blake2b(b"photos/a.jpg", digest_size=8).hexdigest()
    assert shard_of("photos/a.jpg", 8) == int(digest, 16) % 8 == int(digest[-1], 16) % 8


@pytest.mark.parametrize("tars", [2, 5])
def test_containers_are_read_whole_where_there_are_enough(
    tmp_path: Path, tars: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # names, and with them shards, do not depend on the folder
    for number in range(tars):
        make_tar(tmp_path / f"{number}.tar", {f"{i}.png": image(100 * number + i) for i in range(20)})
    shards = [read("*.tar", count=3, index=index) for index in range(3)]
    assert sorted(item.content for shard in shards for item in shard) == sorted(
        image(100 * number + i) for number in range(tars) for i in range(20)
    )
    files = [{item.uri.split("::")[1] for item in shard} for shard in shards]
    if tars >= 3:
        assert [sorted(Path(f).name for f in mine) for mine in files] == [
            ["0.tar", "3.tar"],
            ["1.tar", "4.tar"],
            ["2.tar"],
        ]
    else:
        assert all(len(mine) == 2 for mine in files)


def test_lists_name_images_folders_and_addresses(bucket: str, photos: Path) -> None:
    listed = photos.parent / "mine.txt"
    listed.write_text(f"# mine\nphotos/sub\n{bucket}a.png\n")
    expected = [f"{photos}/sub/a.jpg", f"{photos}/sub/deep/c.webp", "memory:///bucket/a.png"]
    assert [item.uri for item in read(listed)] == expected
    assert [item.uri for item in read(f"@{listed}")] == expected
    listed.write_text("nowhere.png\n")
    with pytest.raises(ImageError, match=r"mine.txt, line 1: nowhere.png: no such file"):
        read(listed)


def test_what_is_done_is_not_read_again(photos: Path) -> None:
    (shard,) = divide([str(photos)], count=1)
    done = f"{photos}/b.png"
    assert done not in [item.uri for item in read_shard(shard, {done})]


@pytest.mark.parametrize("given", ["nowhere/*.png", "/nowhere"])
def test_inputs_that_are_not_there_are_named(given: str) -> None:
    with pytest.raises(ImageError, match=r"no such file .looked at .*give files, folders, addresses"):
        divide([given], count=1)


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(ImageError, match=r"holds no image, tar or table; images end in .jpg"):
        divide([str(tmp_path)], count=1)


def test_empty_large_and_odd_files_are_rows_with_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "large.png").write_bytes(b"x" * 100)
    (tmp_path / "dangling.png").symlink_to("nothing")
    monkeypatch.setattr(inputs, "MAX_DOWNLOAD", 99)
    errors = {Path(item.uri).name: item.error for item in read(tmp_path)}
    assert "the file is empty" in errors["empty.png"]
    assert "100 bytes, and up to 99 are read" in errors["large.png"]
    assert "no such file" in errors["dangling.png"]


def test_names_that_are_no_utf8_get_uris_that_tables_can_hold(tmp_path: Path) -> None:
    name = b"bad-\xff.png".decode("utf-8", "surrogateescape")
    (tmp_path / name).write_bytes(image(3))
    (item,) = read(tmp_path)
    assert item.content == image(3)
    assert item.uri == f"{tmp_path}/bad-\\udcff.png"
    item.uri.encode()


def test_web_addresses_are_downloaded_only_where_that_is_allowed() -> None:
    (item,) = read("http://127.0.0.1:9/a.png")
    assert "addresses are not downloaded" in item.error


def test_an_error_of_one_image_does_not_stop_the_reading(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path) -> bytes:
        if self.name == "b.png":
            raise PermissionError(13, "Permission denied")
        return whole(self)

    whole = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", refuse)
    errors = [item.error for item in read(photos)]
    assert "cannot be read (PermissionError" in errors[1]
    assert len(errors) == 4


@pytest.mark.parametrize("given", ["n" * 300, "@" + "n" * 300, "n" * 300 + ".txt"])
def test_a_path_that_no_file_can_have_is_refused_in_one_line(given: str) -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        divide([given], count=1)
