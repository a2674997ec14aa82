"""Which Redis is the master: the Sentinels know."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from orchestrator.config import Address
from orchestrator.integrations.redis.failures import RedisRefused, RedisUnavailable
from orchestrator.integrations.redis.line import Line


class Sentinels:
    """Asked in turn, the one that knew it last first. `open_line`: raises RedisUnavailable."""

    def __init__(
        self, endpoints: Sequence[Address], master: str, open_line: Callable[[Address], Awaitable[Line]]
    ) -> None:
        self._endpoints = list(endpoints)
        self._master = master
        self._open_line = open_line
        self._line: Line | None = None

    async def master(self) -> Address:
        """Raises RedisUnavailable, with what each of them said."""
        said = []
        for endpoint in list(self._endpoints):
            try:
                return await self._ask(endpoint)
            except (RedisUnavailable, RedisRefused) as error:
                said.append(str(error))
                await self.turn_from(endpoint)
        raise RedisUnavailable(f"no Sentinel names the master {self._master!r}: {'; '.join(said)}", lost=True)

    async def turn_from(self, endpoint: Address | None = None) -> None:
        """It, or the first one, is asked last from now on: what it says helps nobody."""
        await self.close()
        endpoint = endpoint or self._endpoints[0]
        self._endpoints.remove(endpoint)
        self._endpoints.append(endpoint)

    async def close(self) -> None:
        if self._line is not None:
            await self._line.close()
            self._line = None

    async def _ask(self, endpoint: Address) -> Address:
        if self._line is None or not await self._line.is_quiet():
            await self.close()
            self._line = await self._open_line(endpoint)
        found = await self._line.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master)
        if found is None:
            raise RedisRefused(f"{endpoint} knows no master {self._master!r}, see redis_sentinel_master")
        host, port = found
        return Address(host.decode(), int(port))
