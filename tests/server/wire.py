"""A caller who writes HTTP byte by byte, as clients do and as attackers may."""

from __future__ import annotations

import json
import socket
import ssl
from typing import Any, NamedTuple
from urllib.parse import urlsplit

GOOD = {"query": "blue whale", "documents": ["the blue whale", "a red fox"]}
RAW = json.dumps(GOOD).encode()


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """One connection. Replies are read one after the other; each must have a content-length."""

    def __init__(self, url: str, receive_buffer: int = 0) -> None:
        address = urlsplit(url)
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(20)
        self.sock.connect((address.hostname, address.port))
        if address.scheme == "https":
            trusting = ssl.create_default_context()
            trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
            self.sock = trusting.wrap_socket(self.sock)
        self._unread = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.sock.sendall(part)

    def reply(self) -> Reply:
        """Raises `ConnectionError` if the server closes the connection instead."""
        while b"\r\n\r\n" not in self._unread:
            self._more()
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(headers["content-length"])
        while len(self._unread) < length:
            self._more()
        body, self._unread = self._unread[:length], self._unread[length:]
        return Reply(int(status.split(" ")[1]), headers, body)

    def closed(self) -> bool:
        """Whether the server closes the connection, without a further reply."""
        try:
            self._more()
        except ConnectionError:
            return True
        return False

    def _more(self) -> None:
        data = self.sock.recv(65_536)
        if not data:
            raise ConnectionError("closed by the server")
        self._unread += data


def head(*headers: str, path: str = "/rerank") -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: a", *headers, "", ""]).encode()


def post(*headers: str, body: bytes = RAW, path: str = "/rerank") -> bytes:
    return head(*headers, f"Content-Length: {len(body)}", path=path) + body


def chunked(*headers: str, body: bytes = RAW, trailers: bytes = b"") -> bytes:
    half = len(body) // 2
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part)
    return head(*headers, "Transfer-Encoding: chunked") + chunks + b"0\r\n" + trailers + b"\r\n"
