"""What is known of servers' methods: kept until a call shows that it is not so any more."""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

from orchestrator.integrations.grpc_calls.descriptors import MethodInvalid, method_of, pool_of_set

POOLS_MAX = 256

Ask = Callable[[], Awaitable[DescriptorPool]]


class Known:
    """A method and the pool that it is of."""

    def __init__(self, method: MethodDescriptor, pool: DescriptorPool, *, is_fresh: bool) -> None:
        self.method = method
        self.pool = pool
        self.is_fresh = is_fresh  # told just now; otherwise it may be out of date


class Methods:
    def __init__(self) -> None:
        self._pools: OrderedDict[Hashable, DescriptorPool] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pools)

    def of_set(self, descriptor_set: str, service: str, method: str) -> Known:
        """Of a descriptor set, base64. Raises MethodInvalid, DescriptorsInvalid."""
        pool = self._pools.get(descriptor_set)
        if pool is None:
            pool = self._keep(descriptor_set, pool_of_set(base64.b64decode(descriptor_set)))
        found = method_of(pool, service, method)
        if found is None:
            raise MethodInvalid(f"the descriptor set has no method {service}/{method}")
        return Known(found, pool, is_fresh=True)

    async def of_server(self, key: Hashable, ask: Ask, service: str, method: str, *, anew: bool = False) -> Known:
        """What the server told, or tells now. Raises MethodInvalid, and what `ask` raises."""
        pool = None if anew else self._pools.get(key)
        if pool is not None:
            self._pools.move_to_end(key)
            found = method_of(pool, service, method)
            if found is not None:
                return Known(found, pool, is_fresh=False)
        pool = self._keep(key, await ask())
        found = method_of(pool, service, method)
        if found is None:
            raise MethodInvalid(f"the server has no method {service}/{method}")
        return Known(found, pool, is_fresh=True)

    def forget(self, key: Hashable) -> None:
        self._pools.pop(key, None)

    def _keep(self, key: Hashable, pool: DescriptorPool) -> DescriptorPool:
        self._pools[key] = pool
        self._pools.move_to_end(key)
        if len(self._pools) > POOLS_MAX:
            self._pools.popitem(last=False)
        return pool
