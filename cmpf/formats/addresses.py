# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Downloads of addresses that anybody may have typed: from public machines only, in limited time and size."""

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

# Whether addresses are downloaded: False = no, True = from public machines, "private" = from this machine and its
# network, too, where a server may find what is meant for nobody else.
UrlPolicy: TypeAlias = bool | Literal["private"]
MAX_DOWNLOAD = 200 * 2**20  # bytes
DOWNLOAD_SECONDS = 30.0  # of a whole download, from the first name that is looked up to the last byte
_SCHEMES = ("http", "https")
_CHUNK = 1 << 16


def is_address(source: str) -> bool:
    """Whether a text is an address and no path."""
    try:
        return urlsplit(source).scheme in (*_SCHEMES, "ftp", "data", "file")
    except ValueError:  # such as http://[
        return source.partition(":")[0].lower() in _SCHEMES


def download(url: str, policy: UrlPolicy) -> bytes:
    """The content of an http(s) address.

    Raises:
        ImageError: addresses are not allowed, or this one is not; it cannot be read, takes too long, or is too large.
    """
    shown = url[:200]
    if not url.lower().startswith(tuple(f"{scheme}://" for scheme in _SCHEMES)):
        raise ImageError(f"{shown[:100]}: give a plain path or an http(s) address")
    if not policy:
        raise ImageError(
            f"{shown}: addresses are not downloaded; save the image and give its path, "
            "or allow it with allow_urls=True"
        )
    sockets: list[socket.socket] = []
    # A timeout alone would begin anew with every byte that trickles in.
    late = Timer(DOWNLOAD_SECONDS, _shut, [sockets])
    late.daemon = True
    started = time.monotonic()
    late.start()
    try:
        opener = _opener(public_only=policy != "private", sockets=sockets)
        with opener.open(Request(url, headers={"User-Agent": "cmpf"}), timeout=DOWNLOAD_SECONDS) as response:
            content = _read(response)
    except (OSError, ValueError, http.client.HTTPException) as error:
        slow = time.monotonic() - started >= DOWNLOAD_SECONDS
        reason = f"not finished after {DOWNLOAD_SECONDS:g} s" if slow else summary(error)
        raise ImageError(f"{shown}: download failed ({reason}); check the address and the network") from error
    finally:
        late.cancel()
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


def _shut(sockets: list[socket.socket]) -> None:
    for connection in list(sockets):
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # closed already
            continue


def _opener(*, public_only: bool, sockets: list[socket.socket]) -> OpenerDirector:
    """Opens http and https, and follows redirects to nothing else.

    Every connection, that after a redirect, too, goes to an address that has been looked at: a name may mean another
    one a moment later.
    """

    proxies = {urlsplit(proxy).hostname for proxy in getproxies().values()}

    def connect(place: tuple[str, int], *arguments: Any, **options: Any) -> socket.socket:
        # Which machines a proxy may be asked for is a matter of whoever runs it.
        connection = _connected(place, public_only and place[0] not in proxies)
        sockets.append(connection)
        return connection

    # http.client lets no public argument say how its socket is made, behind a proxy as well.
    class Plain(http.client.HTTPConnection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._create_connection = connect

    class Encrypted(http.client.HTTPSConnection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._create_connection = connect

    class PlainHandler(HTTPHandler):
        def http_open(self, request: Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, request)

    class EncryptedHandler(HTTPSHandler):
        def https_open(self, request: Request) -> http.client.HTTPResponse:
            return self.do_open(Encrypted, request)

    opener = OpenerDirector()
    handlers = (
        ProxyHandler,
        UnknownHandler,
        HTTPDefaultErrorHandler,
        HTTPRedirectHandler,
        HTTPErrorProcessor,
    )
    for handler in (*handlers, PlainHandler, EncryptedHandler):
        opener.add_handler(handler())
    return opener


def _connected(place: tuple[str, int], public_only: bool) -> socket.socket:
    """A connection to the first address of a machine that answers."""
    host, port = place
    failed: OSError = URLError(f"{host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if public_only and not _is_public(str(address[0])):
            failed = URLError(
                f"{host} is a machine of this network or this machine itself ({address[0]}), which is read only with "
                "allow_urls='private'"
            )
            continue
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(DOWNLOAD_SECONDS)
            connection.connect(address)
        except OSError as error:
            connection.close()
            failed = error
            continue
        return connection
    raise failed


def _is_public(address: str) -> bool:
    number = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(number, "ipv4_mapped", None)  # an IPv4 address in the clothes of an IPv6 one
    return (mapped or number).is_global
