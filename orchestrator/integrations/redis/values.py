"""Values by key: as much of it as a store of large payloads needs."""

from __future__ import annotations

from orchestrator.integrations.redis.link import RedisLink


class RedisValues:
    """All raise RedisUnavailable and RedisRefused."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def set(self, key: str, value: bytes) -> None:
        await self._link.execute("SET", key, value)

    async def get(self, key: str) -> bytes | None:
        found = await self._link.execute("GET", key)
        return None if found is None else bytes(found)

    async def delete(self, key: str) -> bool:
        """Whether there was one."""
        return bool(await self._link.execute("UNLINK", key))

    async def exists(self, key: str) -> bool:
        return bool(await self._link.execute("EXISTS", key))
