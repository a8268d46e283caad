# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Brings the documents that lie outside docs/ into the site, without copies, and turns links between all of them right.

A link in a document is a path that works where the document lies, on disk and on a code host; in the site each page has
the name that PAGES gives it.
"""

from __future__ import annotations

import itertools
import json
import posixpath
import re
from pathlib import Path
from typing import Any

from griffe import Extension, Object
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
# Path in the repository -> in the site. What lies under docs/ keeps its name.
PAGES = {
    "README.md": "index.md",
    "GETTING_STARTED.md": "getting_started.md",
    "INSTALL.md": "installing.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "datasets/README.md": "datasets.md",
    "cmpf/assets/README.md": "tiny_encoders.md",
    "LICENSE": "LICENSE.txt",
    "CITATION.cff": "CITATION.cff",
    "demo/example.png": "example.png",
}
# Pages of a wide table, which takes the place of the table of contents.
WIDE = {"architecture.md", "models.md", "plugins.md", "published_arithmetic.md", "reproduce.md", "results.md"}
ORIGINS = {page: path for path, page in PAGES.items()}
_FENCED = re.compile(r"^(```.*?^```)", flags=re.M | re.S)
_MARKER = re.compile(r"^<!-- (run|needs): ([^>]+) -->\n", flags=re.M)
_CELL_CODE = re.compile(r"(?<=<code>)[^<]{16,}(?=</code>[^\n]*</td>)")
_COMMANDS = re.compile(r'<div class="language-bash.*?</div>|<code>(?:[^<]|<wbr>)+</code>', flags=re.S)
_OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z0-9-]*)")
_TABLE = re.compile(r"<table>.*?</table>", flags=re.S)
_SECTION = re.compile(r"\n( *)(Args|Attributes|Returns|Raises|Yields):(?= |\n)")
_LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the documents of PAGES."""
    for path, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        page = f"notebooks/{notebook.stem}.md"
        files.append(File.generated(config, page, content=_notebook_page(notebook)))
        files.append(File.generated(config, f"notebooks/{notebook.name}", abs_src_path=str(notebook)))
    return files


def _notebook_page(path: Path) -> str:
    """A notebook as Markdown: its text, its code, and below what each cell has shown."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        parts += [_shown(output) for output in cell["outputs"]]
        if len(parts) == 2:
            parts.insert(1, f"This page is a notebook: [{path.name}]({path.name}).")
    return "\n\n".join(parts)


def _shown(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/jpeg" in data:
        return f"![what the cell shows](data:image/jpeg;base64,{''.join(data['image/jpeg']).strip()})"
    if "image/svg+xml" in data:
        return "".join(data["image/svg+xml"])
    return f"```text\n{''.join(output.get('text') or data.get('text/plain', '')).rstrip()}\n```"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The text with links as the site has them; of the markers of tests what a block needs is shown."""
    if page.file.src_uri in WIDE:
        page.meta["hide"] = ["toc"]
    parts = _FENCED.split(_MARKER.sub(_needs, markdown))
    return "".join(part if part.startswith("```") else _in_site(part, page.file.src_uri) for part in parts)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """HTML that fits a narrow screen; nothing of it is copied with the text.

    Long names in tables may break after their dots, lines and strokes, options of commands nowhere, and tables of words
    say in each cell which column it is of, so that site.css can put the cells of a row below each other.
    """
    html = _CELL_CODE.sub(lambda name: re.sub(r"(?<=[._/])(?=\w)", "<wbr>", name[0]), html)
    html = _COMMANDS.sub(lambda block: _OPTION.sub(r'<span class="option">\1</span>', block[0]), html)
    return _TABLE.sub(_labeled, html)


def _labeled(table: re.Match[str]) -> str:
    heads = [
        re.sub("<[^>]+>", "", head) for head in re.findall(r"<th\b[^>]*>(.*?)</th>", table[0], flags=re.S)
    ]
    if len(heads) < 3 or len(re.findall(r"<th\b[^>]*text-align: right", table[0])) == len(heads) - 1:
        return table[0]  # two columns fit, and figures are compared down a column
    columns = itertools.cycle(heads)
    body = re.sub(r"<td\b", lambda _: f'<td data-label="{next(columns)}"', table[0])
    return body.replace("<table>", "<table data-stacked>", 1)


def _needs(marker: re.Match[str]) -> str:
    kind, words = marker.groups()
    return (
        "" if kind == "run" else f"Needs: {', '.join(words.split()).replace('gpu', 'GPU')}\n{{: .needs }}\n\n"
    )


def _in_site(text: str, page: str) -> str:
    origin = posixpath.dirname(ORIGINS.get(page, f"docs/{page}"))

    def link(found: re.Match[str]) -> str:
        before, target, anchor, after = found.groups(default="")
        if "://" in target or target.startswith(("mailto:", "data:")):
            return found[0]
        path = posixpath.normpath(posixpath.join(origin, target))
        name = PAGES.get(path, path.removeprefix("docs/"))
        if not page.startswith("notebooks/"):  # the page of a notebook is where the file can be had
            name = re.sub(r"\.ipynb$", ".md", name)
        return before + posixpath.relpath(name, posixpath.dirname(page) or ".") + anchor + after

    return _LINK.sub(link, text)


class Sections(Extension):
    """Docstrings as griffe reads them: a blank line stands before each section."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = _SECTION.sub(r"\n\n\1\2:", obj.docstring.value)
