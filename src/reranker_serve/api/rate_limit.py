"""How many requests and tokens a caller may have in a minute: of a key, or of an address where there are no keys."""

from __future__ import annotations

import ipaddress
import math
from time import monotonic

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reranker_serve.api.middleware import Exchange
from reranker_serve.api.rate_windows import Windows
from reranker_serve.errors import ClientGone, RateLimited
from reranker_serve.keys import Key
from reranker_serve.rates import Rates

# A provider gives a customer at least this much of the IPv6 address space.
_IPV6_CUSTOMER_BITS = 64
# Of English text and JSON; for who does not wait until its tokens are counted.
_BYTES_PER_TOKEN = 4


class RateLimit:
    """Counts what is posted, in windows of a minute that begin with a caller's first request.

    What a request costs in tokens is known when it is answered, and charged then. So a caller is refused when its
    tokens are used up, and the requests that used them up were answered whole. Who hangs up before pays by the bytes
    of its body.
    """

    def __init__(self, app: ASGIApp, rates: Rates) -> None:
        self._app = app
        self._windows = Windows()
        limits = {"requests": rates.requests, "tokens": rates.tokens}
        self._limits = {kind: amount for kind, amount in limits.items() if amount is not None}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        exchange: Exchange = scope["state"]["exchange"]
        caller = _caller(exchange.key, scope.get("client"))
        self._admit(caller, exchange)

        async def charged(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._windows.charge(caller, monotonic(), tokens=exchange.tokens)
                exchange.headers = self._headers(caller)
            await send(message)

        try:
            await self._app(scope, receive, charged)
        except ClientGone:
            self._windows.charge(caller, monotonic(), tokens=exchange.body_bytes // _BYTES_PER_TOKEN)
            raise

    def _admit(self, caller: str, exchange: Exchange) -> None:
        used_up = [kind for kind in self._limits if self._left(caller, kind)[0] == 0]
        if not used_up:
            self._windows.charge(caller, monotonic(), requests=1)
        exchange.headers = self._headers(caller)
        if used_up:
            seconds = max(1, *(self._left(caller, kind)[1] for kind in used_up))
            whose = "this key" if exchange.key else "this address"
            spent = " and ".join(f"{self._limits[kind]} {kind}" for kind in used_up)
            raise RateLimited(f"{whose} has used up its {spent} a minute; retry in {seconds} s", seconds)

    def _left(self, caller: str, kind: str) -> tuple[int, int]:
        """What remains, and the whole seconds until all of it is there again."""
        now = monotonic()
        ends, requests, tokens = self._windows.of(caller, now)
        used = requests if kind == "requests" else tokens
        return max(0, self._limits[kind] - used), math.ceil(ends - now) if used else 0

    def _headers(self, caller: str) -> dict[str, str]:
        """As OpenAI names and writes them, and other vendors after it."""
        headers = {}
        for kind, limit in self._limits.items():
            left, seconds = self._left(caller, kind)
            headers[f"x-ratelimit-limit-{kind}"] = str(limit)
            headers[f"x-ratelimit-remaining-{kind}"] = str(left)
            headers[f"x-ratelimit-reset-{kind}"] = f"{seconds}s"
        return headers


def _caller(key: Key | None, client: tuple[str, int] | None) -> str:
    """Who counts as one: keys of one name, a key without one, an address, an IPv6 network."""
    if key is not None:
        return f"name {key.name}" if key.name else f"key {key.digest.hex()}"
    try:
        address = ipaddress.ip_address(client[0] if client else "")
    except ValueError:
        return "address unknown"  # a Unix socket
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            network = ipaddress.ip_network((int(address), _IPV6_CUSTOMER_BITS), strict=False)
            return f"address {network.network_address}"
        address = address.ipv4_mapped
    return f"address {address}"
