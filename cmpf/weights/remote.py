# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Requests published files over HTTP, and recognizes web pages that servers send instead."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from http.client import HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from cmpf.errors import WeightsError

# Environment variable: base address of a mirror with https://HOST/PATH at BASE/HOST/PATH.
MIRROR = "CMPF_MIRROR"
TIMEOUT = 30.0  # seconds without a response
LIMIT = 1 << 18  # bytes of a web page that are read
RANGE_NOT_SATISFIABLE = 416
_HTML_START = re.compile(
    rb"\A(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head)\b",
    re.I | re.S,
)
# Texts of web pages and what they mean; the first match is used.
_REASONS = (
    (
        r"too many users have viewed or downloaded|quota exceeded|download quota",
        "its download quota is used up for today",
    ),
    (
        r"HTTP 4(?:04|10)|you have requested does not exist|not found|has been (?:removed|deleted)|in (?:the )?trash",
        "the file was removed",
    ),
    (
        r"accounts\.google\.com|sign[ -]in|log ?in|request access|need (?:access|permission)",
        "it asks to sign in",
    ),
    (r"can't scan|cannot scan|virus|download anyway|confirm", "it asks to confirm the download"),
)


@dataclass(frozen=True)
class Remote:
    """A published file.

    Attributes:
        url: http or https address.
        title: describes the file in the progress bar and in messages.
        sha256: expected SHA-256 in hexadecimal digits, or its first digits; None = none is published, so that of the
            first download is recorded beside the file and later downloads must match it.
        size: bytes, as its authors state; None = unknown.
        page: address for a browser if it differs from url.
    """

    url: str
    title: str
    sha256: str | None = None
    size: int | None = None
    page: str = ""

    @property
    def address(self) -> str:
        """The address to request: url, or its place at the mirror."""
        return mirrored(self.url)


def mirrored(url: str) -> str:
    """The address of a URL at the mirror of CMPF_MIRROR; the URL itself if there is no mirror."""
    mirror = os.environ.get(MIRROR, "").rstrip("/")
    if not mirror:
        return url
    parts = urlsplit(url)
    return f"{mirror}/{parts.netloc}{parts.path}{'?' if parts.query else ''}{parts.query}"


def request_file(remote: Remote, *, offset: int, target: Path) -> HTTPResponse:
    """Requests a file; confirms a page that asks to confirm a large download, once.

    Args:
        remote: the file.
        offset: first byte to send.
        target: path of the downloaded file, for messages.
    Raises:
        WeightsError: the server sent a web page instead of the file.
        HTTPError: the server refused the request.
        OSError: there is no response.
    """
    response = _request(remote.address, offset)
    if not isinstance(response, str):
        return response
    confirmed = confirmed_address(response, remote.url)
    if confirmed is not None:
        response = _request(mirrored(confirmed), offset)
        if not isinstance(response, str):
            return response
    raise page_error(remote, response.encode(), target)


def _request(address: str, offset: int) -> HTTPResponse | str:
    """The response, or the text of a web page that came instead of a file."""
    request = Request(address, headers={"User-Agent": "cmpf"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    try:
        response: HTTPResponse = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == RANGE_NOT_SATISFIABLE or not _is_html(error.headers.get("Content-Type")):
            raise
        with error:
            return f"<!-- HTTP {error.code} -->{error.read(LIMIT).decode('utf-8', errors='replace')}"
    if not _is_html(response.headers.get("Content-Type")):
        return response
    with response:
        return response.read(LIMIT).decode("utf-8", errors="replace")


def page_error(remote: Remote, page: bytes, target: Path) -> WeightsError:
    """An error for a web page that came instead of a file, with instructions to get the file by hand."""
    reason = page_reason(page.decode("utf-8", errors="replace"))
    return WeightsError(
        f"{remote.title}: {urlsplit(remote.url).netloc} sent a web page instead of the file ({reason}). "
        f"Open {remote.page or remote.url} in a browser and save the file as {target}"
    )


def _is_html(content_type: str | None) -> bool:
    return (content_type or "").lower().startswith(("text/html", "application/xhtml"))


def is_page(start: bytes) -> bool:
    """Whether the first bytes of a file are those of a web page."""
    return bool(_HTML_START.match(start))


def page_reason(page: str) -> str:
    """Why a server sent a page instead of a file, as far as it is recognized; otherwise the page's title."""
    for pattern, reason in _REASONS:
        if re.search(pattern, page.replace("&#39;", "'").replace("’", "'"), re.I):
            return reason
    title = re.search(r"<title[^>]*>(.*?)</title>", page, re.I | re.S)
    words = " ".join(title[1].split())[:80] if title else ""
    return f'its title is "{words}"' if words else "it has no title"


def confirmed_address(page: str, base: str) -> str | None:
    """The address of the confirm button on a page that asks to confirm a large download; None = there is no button.

    Args:
        page: HTML text.
        base: address of the page.
    """
    form = _Form()
    form.feed(page)
    if form.action is None:
        return None
    address = urlsplit(urljoin(base, form.action))
    fields = {name: values[-1] for name, values in parse_qs(address.query).items()} | form.fields
    return urlunsplit(address._replace(query=urlencode(fields)))


class _Form(HTMLParser):
    """Parses the form with the id "download-form" and its hidden fields."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._inside = values.get("id") == "download-form"
            if self._inside:
                self.action = values.get("action", "")
        elif tag == "input" and self._inside and values.get("name"):
            self.fields[values["name"]] = values.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._inside = False
