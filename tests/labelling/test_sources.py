# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What people name as images, and names of results that do not collide."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmpf.errors import ImageError
from cmpf.labelling.sources import FoundSources, find_sources, unique_names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "b.png",
        "a.JPG",
        "notes.txt",
        "x.pdf",
        ".hidden.png",
        "deep/c.webp",
        "deep/er/d.jpg",
        ".x/e.jpg",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(found: FoundSources, folder: Path) -> list[str]:
    return [str(Path(given).relative_to(folder)) for given in found.images]


def test_a_folder_means_its_images_by_name_and_what_is_left_out_is_counted(folder: Path) -> None:
    found = find_sources([folder])
    assert names(found, folder) == ["a.JPG", "b.png"]
    assert found.describe_skipped() == [
        "files that are not images: 1 .txt, 1 .pdf", "subfolders: 1 (use --recursive to search them)",
    ]  # fmt: skip


def test_recursive_enters_folders_but_that_of_the_results_and_hidden_ones(folder: Path) -> None:
    found = find_sources([folder], recursive=True, exclude=folder / "deep/er")
    assert names(found, folder) == ["a.JPG", "b.png", "deep/c.webp"]
    assert [source.name for source in found.sources(found.images)] == ["a", "b", "deep/c"]
    with pytest.raises(ImageError, match="the output folder is among the input folders"):
        find_sources([folder], exclude=folder)


def test_files_come_in_the_order_given_and_once(folder: Path) -> None:
    given = [folder / "b.png", str(folder), folder / "x.pdf"]
    assert names(find_sources(given), folder) == ["b.png", "a.JPG", "x.pdf"]


def test_patterns_may_reach_into_folders(folder: Path) -> None:
    found = find_sources([f"{folder}/**/*.webp"])
    assert names(found, folder) == ["deep/c.webp"]
    assert found.sources(found.images)[0].file_name == "deep/c.webp"
    (folder / "x[1].png").touch()
    assert names(find_sources([folder / "x[1].png"]), folder) == ["x[1].png"]


@pytest.mark.parametrize("form", ["@{}", "{}"])
def test_a_list_names_files_folders_and_addresses_a_line_each(folder: Path, form: str) -> None:
    (folder / "list.txt").write_text("# mine\nb.png\n\ndeep\nhttp://x.org/p/q.jpg?s=1\n")
    found = find_sources([form.format(folder / "list.txt")])
    assert [Path(given).name for given in found.images] == ["b.png", "c.webp", "q.jpg?s=1"]
    assert [source.name for source in found.sources(found.images)] == ["b", "deep/c", "q"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nothing-*.png", r"nothing-\*\.png: no such image \(looked at /"),
        (".x/empty", "empty: no image in this folder"),
        ("bad.txt", r"bad.txt, line 2: .*nowhere.jpg: no such image"),
        ("empty.txt", "empty.txt: an empty list; write one image per line"),
        ("nested.txt", "nested.txt, line 1: a list names no other list"),
        ("n" * 300, "cannot be read"),
        ("n" * 300 + ".txt", "cannot be read"),
    ],
)
def test_what_names_no_image_is_refused(folder: Path, given: str, message: str) -> None:
    (folder / ".x/empty").mkdir()
    (folder / "bad.txt").write_text("b.png\nnowhere.jpg\n")
    (folder / "empty.txt").write_text("# nothing\n")
    (folder / "nested.txt").write_text("@list.txt\n")
    with pytest.raises(ImageError, match=message):
        find_sources([folder / given])


def test_names_differ_also_where_the_letter_case_does_not_count() -> None:
    uris = ["/p/photo.jpg", "/p/photo.png", "/p/PHOTO.jpg", "/p/a/photo.jpg", "/p/photo_png.jpg", "/p/.x"]
    found = [name for _, name in unique_names(uris, "/p")]
    assert found == ["photo", "photo_png", "PHOTO_jpg", "a/photo", "photo_png_jpg", ".x"]
    assert len({name.casefold() for name in found}) == len(found)
    assert [name for _, name in unique_names(["http://a/x.jpg", "http://b/x.jpg", "http://c/x.jpg"], "")] == [
        "x", "x_jpg", "x_2",
    ]  # fmt: skip


def test_the_longest_names_leave_room_for_endings_and_differ() -> None:
    long = "\u00e4" * 120
    names = [name for _, name in unique_names([f"/p/a/{long}{number}.jpg" for number in range(3)], "/p")]
    assert len(set(names)) == 3
    assert all(name.startswith("a/\u00e4") and len(f"{name}_instances.npz".encode()) < 250 for name in names)
    assert [name for _, name in unique_names([f"/p/{'n' * 223}.jpg"], "/p")] == ["n" * 223]


def test_an_address_is_one_whatever_the_case_of_its_scheme() -> None:
    found = find_sources(["HTTP://x.org/a.jpg", "Https://x.org/b.mp4"])
    assert [source.uri for source in found.sources(found.images)] == [
        "HTTP://x.org/a.jpg", "Https://x.org/b.mp4",
    ]  # fmt: skip
