# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import cmpf.web
from cmpf.errors import CMPFError
from cmpf.web.gradio_parts import import_gradio, upload_box, uploaded_path

NEEDS = "the page needs Gradio (extra: web)"


def test_without_gradio_the_error_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(CMPFError, match=r"needs Gradio.*pip install 'cmpf\[web\]'"):
        import_gradio()


def test_the_path_of_an_upload_is_taken_only_where_there_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"anything")
    assert uploaded_path(SimpleNamespace(path=str(file))) == str(file)
    for payload in (None, SimpleNamespace(path=None), SimpleNamespace(path=str(tmp_path / "b.png"))):
        assert uploaded_path(payload) is None


def test_the_box_hands_over_broken_files_and_fetches_no_address(tmp_path: Path) -> None:
    gradio = pytest.importorskip("gradio", reason=NEEDS)
    box = upload_box(gradio, value=None)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    assert box.preprocess(box.data_model(path=str(broken))) == str(broken)
    with pytest.raises(gradio.Error, match="Addresses are not downloaded"):
        asyncio.run(box.async_move_resource_to_block_cache("HTTP://example.org/a.png"))


def test_a_page_writes_nothing_beside_the_sources() -> None:
    gradio = pytest.importorskip("gradio", reason=NEEDS)
    upload_box(gradio, value=None)
    folder = Path(cmpf.web.__file__).parent
    assert [path.name for path in folder.iterdir() if path.suffix == ".pyi"] == []
