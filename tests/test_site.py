# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The documents as a site: built without a warning, whole without network, and searchable when opened as files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.documents import ROOT
from helpers.web_page import Page, chromium

LOADED = re.compile(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?([^\s\">]+)|<link[^>]*\shref=\"?([^\s\">]+)")
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` does, which ends with an error at any warning, such as a broken link or anchor."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    return folder


def test_every_document_has_a_page(site: Path) -> None:
    pages = {str(page.relative_to(site)) for page in site.rglob("*.html")}
    documents = {
        str(path.relative_to(ROOT / "docs").with_suffix(".html")) for path in ROOT.glob("docs/**/*.md")
    }
    assert documents - pages == set()
    assert {
        "index.html",
        "getting_started.html",
        "installing.html",
        "changelog.html",
        "datasets.html",
    } <= pages


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = [script or sheet for script, sheet in LOADED.findall(page.read_text(encoding="utf-8"))]
        loaded = [name for name in loaded if not name.startswith("data:")]
        assert loaded
        assert [address for address in loaded if "//" in address] == [], page.name
        missing = [name for name in loaded if not (page.parent / name).exists()]
        assert page.name == "404.html" or missing == []


def test_docstrings_are_taken_apart_and_the_marks_of_tests_are_not_shown(site: Path) -> None:
    text = (site / "api/predicting.html").read_text(encoding="utf-8")
    sections = re.findall(r"doc-section-title\">(Parameters|Returns|Raises|Attributes):", text)
    assert set(sections) == {"Parameters", "Returns", "Raises", "Attributes"}
    pages = "".join(page.read_text("utf-8") for page in site.rglob("*.html"))
    assert "<!-- run:" not in pages
    assert "<!-- needs:" not in pages


def test_what_a_block_of_commands_needs_is_shown_before_it(site: Path) -> None:
    text = (site / "dataset.html").read_text(encoding="utf-8")
    assert re.search(
        r"<p class=\"?needs\"?>Needs: GPU, data, network</p>\s*<div class=\"[^\"]*highlight", text
    )


def test_a_site_that_is_opened_as_files_is_searched_and_fits_a_phone(site: Path) -> None:
    with chromium(site, size=(500, 900)) as driver:
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
        page = Page(driver, "", site)
        for name in ("index", "photos", "models", "reproduce", "configuration", "api/predicting"):
            page.driver.get((site / f"{name}.html").as_uri())
            assert page.script("return document.documentElement.scrollWidth - innerWidth") <= 0, name
        page.driver.get((site / "index.html").as_uri())
        page.script("document.querySelector('#__search').click()")
        page.script(
            "const field = document.querySelector('[data-md-component=search-query]'); field.focus();"
            "field.value = 'OpenSeg Ensemble'; field.dispatchEvent(new Event('keyup', {bubbles: true}))"
        )
        page.until(
            lambda: (
                "evaluation.html"
                in page.script("return document.querySelector('.md-search-result').innerHTML")
            )
        )
