# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Downloads images from untrusted URLs: public hosts only (SSRF protection), with limits on time and size."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import time
from threading import Timer
from typing import Any, Literal, TypeAlias
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
    getproxies,
)

from cmpf.errors import ImageError, summary

# Whether URLs are downloaded: False = no, True = from public hosts, "private" = also from this machine and its local
# network, which can expose internal services when the URL is untrusted.
UrlPolicy: TypeAlias = bool | Literal["private"]
MAX_DOWNLOAD = 200 * 2**20  # bytes
DOWNLOAD_SECONDS = 30.0  # for a whole download, from the DNS lookup to the last byte
_SCHEMES = ("http", "https")
_CHUNK = 1 << 16


def is_address(source: str) -> bool:
    """Whether a string is a URL rather than a path."""
    try:
        return urlsplit(source).scheme in (*_SCHEMES, "ftp", "data", "file")
    except ValueError:  # such as http://[
        return source.partition(":")[0].lower() in _SCHEMES


def download(url: str, policy: UrlPolicy) -> bytes:
    """Downloads the content of an http(s) URL.

    Raises:
        ImageError: the policy does not allow the URL, the download fails or times out, or the content is too large.
    """
    shown = url[:200]
    if not url.lower().startswith(tuple(f"{scheme}://" for scheme in _SCHEMES)):
        raise ImageError(f"{shown[:100]}: give a plain path or an http(s) address")
    if not policy:
        raise ImageError(
            f"{shown}: addresses are not downloaded; save the image and give its path, "
            "or allow it with allow_urls=True (--allow-urls)"
        )
    sockets: list[socket.socket] = []
    # A socket timeout restarts with every byte received, so a slow server could hold the connection forever.
    deadline = Timer(DOWNLOAD_SECONDS, _shut_down, [sockets])
    deadline.daemon = True
    started = time.monotonic()
    deadline.start()
    try:
        opener = _opener(public_only=policy != "private", sockets=sockets)
        with opener.open(Request(url, headers={"User-Agent": "cmpf"}), timeout=DOWNLOAD_SECONDS) as response:
            content = _read(response)
    except (OSError, ValueError, http.client.HTTPException) as error:
        timed_out = time.monotonic() - started >= DOWNLOAD_SECONDS
        reason = f"not finished after {DOWNLOAD_SECONDS:g} s" if timed_out else summary(error)
        raise ImageError(f"{shown}: download failed ({reason}); check the address and the network") from error
    finally:
        deadline.cancel()
    if len(content) > MAX_DOWNLOAD:
        raise ImageError(f"{shown}: more than {MAX_DOWNLOAD // 2**20} MiB; make the image smaller")
    if time.monotonic() - started >= DOWNLOAD_SECONDS:
        raise ImageError(f"{shown}: download failed (not finished after {DOWNLOAD_SECONDS:g} s)")
    return content


def _read(response: Any) -> bytes:
    content = bytearray()
    while len(content) <= MAX_DOWNLOAD and (chunk := response.read(_CHUNK)):
        content += chunk
    return bytes(content)


def _shut_down(sockets: list[socket.socket]) -> None:
    for connection in list(sockets):
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # already closed
            continue


def _opener(*, public_only: bool, sockets: list[socket.socket]) -> OpenerDirector:
    """An opener for http and https that follows redirects to these two schemes only.

    Every connection, including those after a redirect, goes to the IP address that was checked: a second DNS lookup
    could return another one (DNS rebinding).
    """

    proxies = {urlsplit(proxy).hostname for proxy in getproxies().values()}

    def connect(endpoint: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
        # A configured proxy is trusted; it decides which hosts it connects to.
        connection = _connect(endpoint, public_only and endpoint[0] not in proxies)
        sockets.append(connection)
        return connection

    # http.client has no public argument for the function that creates its socket.
    class CheckedHTTPConnection(http.client.HTTPConnection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._create_connection = connect

    class CheckedHTTPSConnection(http.client.HTTPSConnection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._create_connection = connect

    class CheckedHTTPHandler(HTTPHandler):
        def http_open(self, request: Request) -> http.client.HTTPResponse:
            return self.do_open(CheckedHTTPConnection, request)

    class CheckedHTTPSHandler(HTTPSHandler):
        def https_open(self, request: Request) -> http.client.HTTPResponse:
            return self.do_open(CheckedHTTPSConnection, request)

    opener = OpenerDirector()
    handlers = (
        ProxyHandler,
        UnknownHandler,
        HTTPDefaultErrorHandler,
        HTTPRedirectHandler,
        HTTPErrorProcessor,
    )
    for handler in (*handlers, CheckedHTTPHandler, CheckedHTTPSHandler):
        opener.add_handler(handler())
    return opener


def _connect(endpoint: tuple[str, int], public_only: bool) -> socket.socket:
    """Connects to the first address of a host that accepts; raises the last error where none does."""
    host, port = endpoint
    last_error: OSError = URLError(f"{host} has no address")
    for family, socket_type, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if public_only and not _is_public(str(address[0])):
            last_error = URLError(
                f"{host} is a machine of this network or this machine itself ({address[0]}), which is read only with "
                "allow_urls='private'"
            )
            continue
        connection = socket.socket(family, socket_type, protocol)
        try:
            connection.settimeout(DOWNLOAD_SECONDS)
            connection.connect(address)
        except OSError as error:
            connection.close()
            last_error = error
            continue
        return connection
    raise last_error


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])  # without an IPv6 zone
    mapped = getattr(parsed, "ipv4_mapped", None)  # ::ffff:a.b.c.d
    return (mapped or parsed).is_global
