"""How processes of a run reach the cluster: told on their standard input, where no list of processes shows a token."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from dataclasses import dataclass
from typing import Any, Self

from orchestrator_client import TLS, Client


@dataclass(frozen=True)
class Connecting:
    """What a client takes. `token` is in no repr."""

    addresses: list[str]
    namespace: str = "default"
    tls: tuple[str, str, str] = ("", "", "")
    token: str = dataclasses.field(default="", repr=False)
    token_file: str = ""
    insecure_token: bool = False

    def client(self, deadline_s: float, addresses: list[str] | None = None) -> Client:
        return Client(addresses or self.addresses, namespace=self.namespace, deadline_s=deadline_s,
                      tls=self.tls_settings, token=None if self.token_file else self.token or None,
                      token_file=self.token_file or None, allow_insecure_token=self.insecure_token)

    @property
    def tls_settings(self) -> TLS | None:
        return TLS.of(*self.tls)

    def document(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        return cls(**{**document, "tls": tuple(document["tls"])})


class Told:
    """The lines that the parent writes: JSON documents, the first of which says all that the process needs."""

    def __init__(self) -> None:
        self._lines = asyncio.StreamReader()

    async def open(self) -> dict[str, Any]:
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._lines), sys.stdin)
        first = await self.next()
        if first is None:
            raise EOFError("the parent has said nothing")
        return first

    async def next(self) -> dict[str, Any] | None:
        """None at the end."""
        line = await self._lines.readline()
        return json.loads(line) if line else None

    @staticmethod
    def say(word: str, **more: Any) -> None:
        print(json.dumps({"said": word, **more}), flush=True)
