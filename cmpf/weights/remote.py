# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Published files: where they are, how they are asked for, and web pages that arrive in their place."""

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

MIRROR = "CMPF_MIRROR"  # environment: the address that https://HOST/PATH is asked at as ADDRESS/HOST/PATH
TIMEOUT = 30.0  # seconds without an answer
LIMIT = 1 << 18  # bytes of a page that are looked at
RANGE_NOT_SATISFIABLE = 416
_START = re.compile(
    rb"\A(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head)\b",
    re.I | re.S,
)
# What services write, in the order in which it is looked for, and what it means.
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

    Args:
        url: http or https.
        title: what the file is, for the progress bar and messages.
        sha256: expected SHA-256 in hexadecimal digits, or its first ones; None = none is published. Then that of the
            first download is recorded beside the file, and later ones must have it, too.
        size: bytes, as its authors state; None = not known.
        page: the address for a browser, where that is another one.
    """

    url: str
    title: str
    sha256: str | None = None
    size: int | None = None
    page: str = ""

    @property
    def address(self) -> str:
        """What is asked: the address itself, or that of the mirror in the environment."""
        return mirrored(self.url)


def mirrored(url: str) -> str:
    """The address itself, or where the mirror of the environment has it."""
    mirror = os.environ.get(MIRROR, "").rstrip("/")
    if not mirror:
        return url
    parts = urlsplit(url)
    return f"{mirror}/{parts.netloc}{parts.path}{'?' if parts.query else ''}{parts.query}"


def answer(remote: Remote, *, have: int, target: Path) -> HTTPResponse:
    """The answer that brings the file; a page that only asks for confirmation is confirmed, once.

    Args:
        have: how many bytes need not be sent. target: where the file will be, for messages.
    Raises:
        WeightsError: a web page instead of the file. HTTPError: another refusal. OSError: no answer.
    """
    response = _asked(remote.address, have)
    if not isinstance(response, str):
        return response
    button = confirmed_address(response, remote.url)
    if button is not None:
        response = _asked(mirrored(button), have)
        if not isinstance(response, str):
            return response
    raise page_error(remote, response.encode(), target)


def _asked(address: str, have: int) -> HTTPResponse | str:
    """The answer, or the text of a web page in its place."""
    request = Request(address, headers={"User-Agent": "cmpf"})
    if have:
        request.add_header("Range", f"bytes={have}-")
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
    """What to say of a web page that came instead of a file, and what the user can do."""
    reason = reason_of(page.decode("utf-8", errors="replace"))
    return WeightsError(
        f"{remote.title}: {urlsplit(remote.url).netloc} sent a web page instead of the file ({reason}). "
        f"Open {remote.page or remote.url} in a browser and save the file as {target}"
    )


def _is_html(content_type: str | None) -> bool:
    return (content_type or "").lower().startswith(("text/html", "application/xhtml"))


def is_page(start: bytes) -> bool:
    """Whether a file is a web page, by its first bytes."""
    return bool(_START.match(start))


def reason_of(page: str) -> str:
    """What a page says, in a few words; of an unknown one its title."""
    for pattern, reason in _REASONS:
        if re.search(pattern, page.replace("&#39;", "'").replace("’", "'"), re.I):
            return reason
    title = re.search(r"<title[^>]*>(.*?)</title>", page, re.I | re.S)
    words = " ".join(title[1].split())[:80] if title else ""
    return f'its title is "{words}"' if words else "it has no title"


def confirmed_address(page: str, base: str) -> str | None:
    """The address behind the button of a page that asks to confirm a large download; None = it has no such button.

    Args:
        base: the address of the page.
    """
    form = _Form()
    form.feed(page)
    if form.action is None:
        return None
    address = urlsplit(urljoin(base, form.action))
    fields = {name: values[-1] for name, values in parse_qs(address.query).items()} | form.fields
    return urlunsplit(address._replace(query=urlencode(fields)))


class _Form(HTMLParser):
    """The form with the id "download-form", with its hidden fields."""

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
