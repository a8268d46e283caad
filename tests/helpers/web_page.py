# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What a person does on the web page, done by a browser that selenium drives."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SECONDS = 30
ENTER, HOME, END = "\ue007", "\ue011", "\ue010"  # WebDriver's code points of the keys


@contextmanager
def chromium(downloads: Path, *, size: tuple[int, int] = (1400, 1250)) -> Iterator[Any]:
    """The driver of a browser without a window, of this width and height; the test is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="the browser is driven with selenium")
    program, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver_path):
        pytest.skip("needs Chromium (Debian packages chromium and chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", f"window-size={size[0]},{size[1]}"):
        options.add_argument(f"--{flag}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """What a person does on the page."""

    def __init__(self, driver: Any, address: str, downloads: Path) -> None:
        self.driver, self.address, self.downloads = driver, address, downloads

    def open(self) -> None:
        self.driver.get(self.address)
        self.until(lambda: self.all("#cmpf-segment"))

    def until(self, condition: Any) -> Any:
        """What the condition gives, once that is true or not empty."""
        end = time.monotonic() + SECONDS
        while not (found := condition()):
            assert time.monotonic() < end, f"nothing after {SECONDS} s; the page says: {self.text()}"
            time.sleep(0.1)
        return found

    def text(self) -> str:
        return str(self.script("return document.body.innerText"))

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        (found,) = self.until(lambda: self.all(selector))
        return found

    def script(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def words(self, *words: str) -> None:
        """Replaces the words; the last one is left without Enter, as people do."""
        if clear := self.all("#cmpf-words .remove-all"):
            clear[0].click()
        box = self.one("#cmpf-words input")
        for number, word in enumerate(words, start=1):
            box.send_keys(word)
            if number < len(words):
                box.send_keys(ENTER)

    def choose(self, path: Path) -> None:
        """Uploads an image in place of the one that is there."""
        if remove := self.all('#cmpf-image button[aria-label="Remove Image"]'):
            remove[0].click()
        field = self.until(lambda: self.all('#cmpf-image input[type="file"]'))[0]
        field.send_keys(str(path))
        self.until(lambda: self.all('#cmpf-image button[aria-label="Remove Image"]') or self.toasts())

    def several(self, *paths: Path) -> None:
        """Opens the part for several images and uploads some."""
        self.script("document.querySelector('#cmpf-batch button').click()")
        field = self.until(lambda: self.all('#cmpf-files input[type="file"]'))[0]
        field.send_keys("\n".join(map(str, paths)))
        self.until(lambda: len(self.all("#cmpf-files tr.file")) == len(paths))

    def toasts(self) -> list[str]:
        return [toast.text for toast in self.all(".toast-body") if toast.text]

    def task(self, name: str) -> None:
        self.one(f'#cmpf-task input[value="{name}"]').click()

    def segment(self) -> Any:
        """Presses the button and returns the new panel."""
        self.script(
            "document.querySelectorAll('.cmpf-result, .cmpf-error').forEach((e) => (e.dataset.old = 1))"
        )
        self.one("#cmpf-segment").click()
        return self.one(".cmpf-result:not([data-old]), .cmpf-error:not([data-old])")

    def names(self) -> list[str]:
        return [cell.text for cell in self.all(".cmpf-rows td:first-child")]

    def download(self, kind: str, name: str) -> Path:
        path = self.downloads / name
        path.unlink(missing_ok=True)
        self.one(f'button[data-save="{kind}"]').click()
        self.until(lambda: path.exists() and path.stat().st_size > 0)
        return path

    def shown(self) -> np.ndarray:
        """(H, W, 3) what the browser paints of the image."""
        return np.asarray(Image.open(io.BytesIO(self.one(".cmpf-view").screenshot_as_png)).convert("RGB"))


def pointer(page: Page) -> Any:
    from selenium.webdriver.common.action_chains import ActionChains

    return ActionChains(page.driver)
