# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The page in a real browser, headless Chromium, with the tiny model that comes with CMPF."""

from __future__ import annotations

import json
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.web_page import END, HOME, Page, chromium, pointer
from PIL import Image

import cmpf
from cmpf.shapeworld.scene import generate_scene
from cmpf.web import Limits, running
from cmpf.web.inputs import SEEDS
from cmpf.web.panel import TASKS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio.*")]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    pytest.importorskip("gradio", reason="the page needs Gradio (extra: web)")
    with running(cmpf.load("cmpf_tiny", device="cpu"), limits=Limits(max_upload_mb=5)) as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    downloads = tmp_path_factory.mktemp("downloads")
    with chromium(downloads) as driver:
        yield driver, downloads


@pytest.fixture
def page(browser: tuple[Any, Path], address: str) -> Page:
    found = Page(browser[0], address, browser[1])
    found.open()
    return found


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """A ShapeWorld image, 256 x 256."""
    path = tmp_path / "my shapes.png"
    Image.fromarray(generate_scene(SEEDS[0], size=256, seen_only=False).image).save(path)
    return path


def test_one_click_segments_the_first_example(page: Page) -> None:
    panel = page.segment()
    assert "segments of" in panel.text
    assert page.all(".cmpf-note") == []
    assert len(page.names()) >= 3
    severe = [entry["message"] for entry in page.driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert [message for message in severe if "favicon" not in message] == []


@pytest.mark.parametrize("task", TASKS)
def test_own_words_on_a_shapeworld_image(page: Page, shapes: Path, task: str) -> None:
    page.choose(shapes)
    page.words("sky", "grass; water", "yellow star", "blue bar")
    page.task(task)
    panel = page.segment()
    assert panel.get_attribute("data-name") == "my shapes"
    assert "256 × 256 pixels" in panel.text
    found = set(page.names())
    assert found <= {"sky", "grass", "water", "yellow star", "blue bar"}
    assert len(found) >= 2


def test_a_photograph_from_the_examples(page: Page) -> None:
    pytest.importorskip("skimage", reason="photographs come with scikit-image")
    page.all("#cmpf-examples button")[2].click()
    page.until(lambda: "saucer" in page.one("#cmpf-words").text)
    panel = page.segment()
    assert "600 × 400 pixels" in panel.text
    assert set(page.names()) <= {"cup", "spoon", "saucer", "wooden table"}


def test_labels_appear_under_the_pointer_and_rows_light_their_segment(page: Page) -> None:
    page.segment()
    tip = page.one(".cmpf-tip")
    view = page.one(".cmpf-view")
    plain = page.shown()
    pointer(page).move_to_element_with_offset(view, 0, -view.size["height"] // 2 + 30).perform()
    page.until(tip.is_displayed)
    name = tip.text.rsplit(" ", 1)[0]
    assert name in page.names()
    assert page.one("tr.cmpf-lit").text.startswith(name)
    page.until(lambda: page.shown().mean() < plain.mean() - 10)  # the rest is darker
    pointer(page).move_to_element(page.one("#cmpf-segment")).perform()
    page.until(lambda: not tip.is_displayed())
    pointer(page).move_to_element(page.all(".cmpf-rows tbody tr")[1]).perform()
    page.until(lambda: page.all(".cmpf-spot.cmpf-on"))


def test_opacity_changes_the_image_at_once_and_without_a_request(page: Page) -> None:
    page.segment()
    page.script("performance.clearResourceTimings()")
    slider, shots = page.one(".cmpf-opacity"), []
    for value in (0, 50, 100):
        start = time.perf_counter()
        page.script("arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', "
                    "{bubbles: true}))", slider, value)  # fmt: skip
        assert time.perf_counter() - start < 1
        shots.append(page.shown().astype(np.float64))
    assert page.one(".cmpf-bar output").text == "100%"
    assert np.abs(shots[2] - shots[0]).mean() > 20
    assert np.abs(shots[1] - shots[0]).mean() > 5
    requests = page.script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in requests if "queue/join" in name] == []


def test_downloads_are_what_is_seen(page: Page, shapes: Path) -> None:
    page.choose(shapes)
    page.words("sky", "grass", "water", "yellow star", "blue bar")
    page.segment()
    page.one(".cmpf-opacity").send_keys(END)
    full = np.asarray(Image.open(page.download("image", "my shapes_segments.png")).convert("RGB"))
    page.one(".cmpf-opacity").send_keys(HOME)
    clear = np.asarray(Image.open(page.download("image", "my shapes_segments.png")).convert("RGB"))
    assert full.shape == clear.shape == (640, 640, 3)  # small images are enlarged for their labels
    assert np.abs(full.astype(int) - clear).mean() > 20
    content = json.loads(page.download("coco", "my shapes_coco.json").read_text(encoding="utf-8"))
    ids = np.asarray(Image.open(page.download("ids", "my shapes_ids.png")).convert("RGB")).astype(int)
    (annotation,) = content["annotations"]
    assert annotation["file_name"] == "my shapes_ids.png"
    assert ids.shape == (256, 256, 3)
    for info in annotation["segments_info"]:
        assert (ids[..., 0] + 256 * ids[..., 1] == info["id"]).sum() == info["area"]


def test_a_broken_upload_is_told_in_words_and_the_page_goes_on(
    page: Page, tmp_path: Path, shapes: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(shapes.read_bytes()[:2000])
    page.choose(broken)
    text = page.one(".cmpf-error").text
    assert "broken.png: damaged or truncated" in text
    assert "Traceback" not in text
    assert "/" not in text.replace("damaged or", "")  # no path of the server
    page.one("#cmpf-segment").click()  # the same text again
    time.sleep(2)
    assert page.one(".cmpf-error").text == text
    page.choose(shapes)
    assert "cmpf-result" in str(page.segment().get_attribute("class"))


def test_several_images_give_one_zip_which_goes_away_with_the_next_result(
    page: Page, shapes: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    page.several(shapes)
    page.script("HTMLInputElement.prototype.click = function () { window.asked = this.type }")
    page.one('#cmpf-files button[aria-label="Add images"]').click()
    assert page.script("return window.asked") == "file"  # where a person would choose
    page.one('#cmpf-files input[type="file"]').send_keys(str(broken))
    page.until(lambda: len(page.all("#cmpf-files tr.file")) == 2)
    page.one("#cmpf-segment-all").click()
    assert "1 of 2 images segmented" in page.one(".cmpf-batch").text
    path = page.downloads / "cmpf_results.zip"
    page.one("#cmpf-zip").click()
    page.until(lambda: path.exists() and path.stat().st_size > 0)
    with zipfile.ZipFile(path) as content:
        assert set(content.namelist()) == {"my shapes.jpg", "instances.json", "errors.csv"}
    page.segment()
    page.until(lambda: not page.all("#cmpf-zip"))


def test_an_image_of_30_megapixels_is_refused_with_the_limit(page: Page, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    Image.new("RGB", (6000, 5000), (10, 90, 200)).save(large)
    page.choose(large)
    assert re.search(r"large.png: its longer side has 6,000 pixels and this page takes up to 4,096",
                     page.one(".cmpf-error").text)  # fmt: skip


def test_a_file_beyond_the_upload_limit_is_refused(page: Page, tmp_path: Path) -> None:
    heavy = tmp_path / "heavy.png"
    noise = np.random.default_rng(0).integers(0, 255, (1500, 1400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(heavy)  # 6.3 MB
    page.choose(heavy)
    assert "exceed" in " ".join(page.until(page.toasts))


def test_words_cannot_bring_markup_into_the_page(page: Page, shapes: Path) -> None:
    page.choose(shapes)
    hostile = "<img src=x onerror=document.title='taken'>${1+1}{{value}}"
    page.words(hostile, "sky")
    page.task("semantic")
    assert hostile in page.segment().text
    time.sleep(0.5)
    assert page.driver.title == "CMPF"


def test_without_words_the_page_says_what_to_do(page: Page) -> None:
    page.words()
    assert "no classes; enter" in page.segment().text


def test_ten_users_at_once_get_their_own_results(page: Page, address: str) -> None:
    driver, first = page.driver, page.driver.current_window_handle
    vocabularies = [f"sky; grass; user{number} word" for number in range(10)]
    tabs = []
    for words in vocabularies:
        driver.switch_to.new_window("tab")
        page.open()
        page.words(words)
        page.task("semantic")
        tabs.append(driver.current_window_handle)
    start = time.perf_counter()
    for tab in tabs:
        driver.switch_to.window(tab)
        page.one("#cmpf-segment").click()
    for number, tab in enumerate(tabs):
        driver.switch_to.window(tab)
        text = page.one(".cmpf-result").text
        assert f"user{number} word" in text
        assert all(f"user{other} word" not in text for other in range(10) if other != number)
        driver.close()
    driver.switch_to.window(first)
    print(f"ten users: {time.perf_counter() - start:.1f} s")


def test_a_narrow_window_shows_everything_without_scrolling_sideways(page: Page) -> None:
    size = page.driver.get_window_size()
    page.driver.set_window_size(500, 900)
    page.segment()
    wide = page.script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    page.driver.set_window_size(size["width"], size["height"])
    assert wide <= 0


@pytest.mark.parametrize(("width", "height"), [(1300, 950), (390, 844)], ids=["desk", "phone"])
def test_the_page_has_no_serious_finding_of_axe_and_the_result_is_in_sight(
    page: Page, shapes: Path, width: int, height: int
) -> None:
    """Contrast, names of buttons and fields, order of headings, for people who see little or nothing."""
    axe = pytest.importorskip("axe_core_python", reason="axe-core comes with axe-core-python")
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.open()
        page.several(shapes)
        page.words(
            "sky", "grass", "water"
        )  # the last, which no Enter ended, moves the phone's button by a line
        page.segment()
        panel = "document.querySelector('#cmpf-panel').getBoundingClientRect()"
        page.until(lambda: page.script(f"return {panel}.top >= -1 && {panel}.top < innerHeight * 0.6"))
        assert page.script("return document.documentElement.scrollWidth - innerWidth") <= 0
        # No cell but the names is broken into lines.
        heights = page.script(
            "return [...document.querySelectorAll('.cmpf-rows td:not(:first-child)')].map((cell) => {"
            "const range = document.createRange(); range.selectNodeContents(cell);"
            "return range.getBoundingClientRect().height / parseFloat(getComputedStyle(cell).fontSize) })"
        )
        assert max(heights) < 2
        assert (
            page.script(
                "return document.querySelectorAll('#cmpf-examples button[aria-label^=Example]').length"
            )
            >= 2
        )
        page.driver.set_script_timeout(60)
        page.script((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
        found = page.driver.execute_async_script("const done = arguments[0]; axe.run(document).then(done)")
        serious = [
            f"{finding['impact']} {finding['id']}: {node['html'][:100]}"
            for finding in found["violations"]
            if finding["impact"] in ("serious", "critical")
            for node in finding["nodes"]
        ]
        assert serious == []
        assert len(found["passes"]) > 15  # it looked at the page
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
