"""What callers have had, counted by all processes together in Redis (`RERANKER_LIMITS_URL`)."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from reranker_serve.api.name_lookup import looking_up
from reranker_serve.api.rate_ledger import Admission, Caller, Ledger
from reranker_serve.errors import SettingsError, reason
from reranker_serve.rates import DAY_S, Limit, Rates, Standing, midnight

if TYPE_CHECKING:
    from limits.aio.storage import RedisStorage
    from redis.asyncio import BlockingConnectionPool

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

# A request waits no longer for the store; then the store counts as away, and one request in so many seconds tries it.
_PATIENCE_S = 0.25
_AWAY_S = 5.0
_CONNECTIONS = 16
_MINUTE_S = 60


class SharedLedger:
    """Counts in the store, by the `limits` library; while that is away, each process in its `own` ledger.

    So a store that is away takes limits from nobody, and refuses nobody who has not used up what a process gives alone.
    Raises `SettingsError` if the packages are not installed, or `url` is no address.
    """

    def __init__(self, url: str, own: Ledger) -> None:
        self._store = _Store(url)
        self._own = own
        self._away = False
        self._next_try = 0.0

    async def admit(self, caller: Caller, rates: Rates) -> Admission:
        return await self._either(lambda: self._admit(caller, rates), lambda: self._own.admit(caller, rates))

    async def charge(self, caller: Caller, rates: Rates, tokens: int) -> Sequence[Standing]:
        return await self._either(
            lambda: self._charge(caller, rates, tokens), lambda: self._own.charge(caller, rates, tokens)
        )

    async def close(self) -> None:
        await self._store.close()
        await self._own.close()

    async def _admit(self, caller: Caller, rates: Rates) -> Admission:
        """Looked at first, so that what is refused is not counted; of requests that come together, the counts tell."""
        before = await asyncio.gather(*(self._store.look(caller, limit) for limit in rates.limits))
        used_up = [standing for standing in before if not standing.left]
        if used_up:
            return Admission(before, used_up)
        after = await asyncio.gather(
            *(self._store.add(caller, had, 1) if had.limit.kind == "requests" else _same(had) for had in before)
        )
        return Admission(after, [standing for standing in after if standing.used > standing.limit.amount])

    async def _charge(self, caller: Caller, rates: Rates, tokens: int) -> Sequence[Standing]:
        before = await asyncio.gather(*(self._store.look(caller, limit) for limit in rates.limits))
        return await asyncio.gather(
            *(
                self._store.add(caller, had, tokens) if tokens and had.limit.kind == "tokens" else _same(had)
                for had in before
            )
        )

    async def _either(self, shared: Callable[[], Awaitable[_Result]], own: Callable[[], Awaitable[_Result]]) -> _Result:
        if self._away:
            if time.monotonic() < self._next_try:
                return await own()
            self._next_try = time.monotonic() + _AWAY_S  # the others go on without, while this one tries
        try:
            async with asyncio.timeout(_PATIENCE_S):
                result = await shared()
        except self._store.failures as error:
            self._lost(error)
            return await own()
        if self._away:
            self._away = False
            logger.info("the store of RERANKER_LIMITS_URL is back: limits are shared again")
        return result

    def _lost(self, error: Exception) -> None:
        if not self._away:
            told = f"no answer in {_PATIENCE_S:g} s" if isinstance(error, TimeoutError) else reason(error)
            logger.error(
                "the store of RERANKER_LIMITS_URL is away; until it is back each process limits by itself: %s", told
            )
        self._away = True
        self._next_try = time.monotonic() + _AWAY_S


class _Store:
    """A counter for each limit of each caller, which goes when its minute or day is over."""

    def __init__(self, url: str) -> None:
        try:
            from limits import RateLimitItemPerDay, RateLimitItemPerMinute, errors
            from limits.aio.storage import RedisStorage
            from redis.asyncio import BlockingConnectionPool, UnixDomainSocketConnection
        except ImportError:
            raise SettingsError("RERANKER_LIMITS_URL needs packages: pip install 'reranker-serve[redis]'") from None
        try:
            self._pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
                url.replace("redis+unix", "unix", 1), max_connections=_CONNECTIONS, timeout=_PATIENCE_S
            )
        except ValueError:
            raise SettingsError("RERANKER_LIMITS_URL is no address of a Redis: redis://host:6379/0") from None
        if not issubclass(self._pool.connection_class, UnixDomainSocketConnection):
            self._pool.connection_class = looking_up(self._pool.connection_class)
        handed_on: dict[str, Any] = {"connection_pool": self._pool}  # to redis, of other types than declared
        self._storage: RedisStorage = RedisStorage(
            f"async+{url}", implementation="redispy", wrap_exceptions=True, **handed_on
        )
        self._items = {"minute": RateLimitItemPerMinute, "day": RateLimitItemPerDay}
        # The last two: where the answers are of other kinds than those of a Redis.
        self.failures: tuple[type[Exception], ...] = (errors.StorageError, OSError, TimeoutError, ValueError, TypeError)

    async def look(self, caller: Caller, limit: Limit) -> Standing:
        key = self._key(caller, limit)
        if limit.period == "day":
            used = await self._storage.get(key)
            return Standing(limit, used, _until_midnight() if used else 0)
        used, ends = await asyncio.gather(self._storage.get(key), self._storage.get_expiry(key))
        # Redis rounds to whole seconds; who comes again in that time must not come too early.
        seconds = min(_MINUTE_S, math.floor(ends - time.time() + 0.5) + 1)
        return Standing(limit, used, seconds if used else 0)

    async def add(self, caller: Caller, had: Standing, amount: int) -> Standing:
        limit = had.limit
        lasts = _MINUTE_S if limit.period == "minute" else DAY_S
        used = await self._storage.incr(self._key(caller, limit), lasts, amount)
        begun = _MINUTE_S if limit.period == "minute" else _until_midnight()
        return replace(had, used=used, seconds=had.seconds or begun)

    async def close(self) -> None:
        await self._pool.aclose()

    def _key(self, caller: Caller, limit: Limit) -> str:
        """Without the amount: what was had counts against a limit that is changed as well."""
        day = [str(int(time.time()) // DAY_S)] if limit.period == "day" else []
        return self._items[limit.period](1, namespace="reranker").key_for(caller.name, limit.kind, *day)


def _until_midnight() -> int:
    now = time.time()
    return math.ceil(midnight(now) - now)


async def _same(standing: Standing) -> Standing:
    return standing
