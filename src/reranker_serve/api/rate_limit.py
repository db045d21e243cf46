"""How many requests and tokens a caller may have in a minute or a day: of a key, or of an address without keys."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reranker_serve.api.middleware import Exchange
from reranker_serve.api.rate_ledger import Caller, Ledger
from reranker_serve.errors import ClientGone, RateLimited
from reranker_serve.keys import Key
from reranker_serve.rates import Rates, Standing

# A provider gives a customer at least this much of the IPv6 address space.
_IPV6_CUSTOMER_BITS = 64
# Of English text and JSON; for who does not wait until its tokens are counted.
_BYTES_PER_TOKEN = 4


class RateLimit:
    """Counts what is posted, against the limits of the caller's key, or else those of all.

    A minute begins with a caller's first request, a day at midnight UTC. What a request costs in tokens is known when
    it is answered, and charged then. So a caller is refused when its tokens are used up, and the requests that used
    them up were answered whole. Who hangs up before pays by the bytes of its body.
    """

    def __init__(self, app: ASGIApp, rates: Rates | None, ledger: Ledger) -> None:
        self._app = app
        self._rates = rates
        self._ledger = ledger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        exchange: Exchange = scope["state"]["exchange"]
        rates = (exchange.key and exchange.key.rates) or self._rates
        if rates is None:
            await self._app(scope, receive, send)
            return
        caller = _caller(exchange.key, scope.get("client"))
        await self._admit(caller, rates, exchange)

        async def charged(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.headers = _headers(await self._ledger.charge(caller, rates, exchange.tokens))
            await send(message)

        try:
            await self._app(scope, receive, charged)
        except ClientGone:
            await self._ledger.charge(caller, rates, exchange.body_bytes // _BYTES_PER_TOKEN)
            raise

    async def _admit(self, caller: Caller, rates: Rates, exchange: Exchange) -> None:
        admission = await self._ledger.admit(caller, rates)
        exchange.headers = _headers(admission.standings)
        if admission.used_up:
            seconds = max(1, *(standing.seconds for standing in admission.used_up))
            whose = "this key" if caller.has_key else "this address"
            spent = " and ".join(str(standing.limit) for standing in admission.used_up)
            raise RateLimited(f"{whose} has used up its {spent}; retry in {seconds} s", seconds)


def _headers(standings: Sequence[Standing]) -> dict[str, str]:
    """As OpenAI names and writes them, and other vendors after it: of a minute and a day the one with less left."""
    headers = {}
    for kind in dict.fromkeys(standing.limit.kind for standing in standings):
        of_kind = [standing for standing in standings if standing.limit.kind == kind]
        tightest = min(of_kind, key=lambda standing: (standing.left, -standing.seconds))
        headers[f"x-ratelimit-limit-{kind}"] = str(tightest.limit.amount)
        headers[f"x-ratelimit-remaining-{kind}"] = str(tightest.left)
        headers[f"x-ratelimit-reset-{kind}"] = f"{tightest.seconds}s"
    return headers


def _caller(key: Key | None, client: tuple[str, int] | None) -> Caller:
    if key is not None:
        return Caller(key.label, has_key=True)
    return Caller(f"address {_address(client)}", has_key=False)


def _address(client: tuple[str, int] | None) -> str:
    try:
        address = ipaddress.ip_address(client[0] if client else "")
    except ValueError:
        return "unknown"  # a Unix socket
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            network = ipaddress.ip_network((int(address), _IPV6_CUSTOMER_BITS), strict=False)
            return str(network.network_address)
        address = address.ipv4_mapped
    return str(address)
