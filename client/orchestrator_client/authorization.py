"""What a client shows of itself: a token, sent as the metadata `authorization` of each call."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio

from orchestrator_client.errors import InsecureConnection, InvalidRequest

KEY = "authorization"

Token = str | Callable[[], str]
"""A token, or what answers with it before each call: quickly, and the same until there is another one."""


class TokenFile:
    """The token that a file holds now. It is read again whenever the file is another one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._seen: tuple[int, int, int] | None = None
        self._token = ""

    def __call__(self) -> str:
        """Raises InvalidRequest if there is none and never was."""
        try:
            status = self._path.stat()
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen != self._seen:
                token = self._path.read_text(encoding="utf-8").strip()
                # One that is being written is empty for a moment.
                self._token, self._seen = token or self._token, seen
        except (OSError, UnicodeDecodeError) as error:
            if not self._token:
                raise InvalidRequest(f"the token file {self._path} can't be read: {error}") from None
        if not self._token:
            raise InvalidRequest(f"the token file {self._path} is empty")
        return self._token


class Authorization:
    """The value of the header for each call. `allow_insecure`: others may read it on its way."""

    def __init__(self, token: Token, *, allow_insecure: bool = False) -> None:
        self._token = token
        self._allow_insecure = allow_insecure
        # Another token may come: one that is refused is no reason to give up.
        self.is_renewable = callable(token)

    def __call__(self) -> str:
        """Raises InvalidRequest for what can't be sent."""
        token = self._token() if callable(self._token) else self._token
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise InvalidRequest("the token is empty, or has characters that no token has")
        return f"Bearer {token}"

    def require_secrecy(self, address: str) -> None:
        """Raises InsecureConnection if others could read what goes to the address without TLS."""
        if not self._allow_insecure and not _is_loopback(address):
            raise InsecureConnection(
                f"a token is not sent to {address} without TLS, where others could read it: use TLS, or say that the "
                "network can be trusted (allow_insecure_token=True, --insecure-token)"
            )


def authorization_of(
    token: Token | None, token_file: str | os.PathLike[str] | None, *, allow_insecure: bool = False
) -> Authorization | None:
    """None if neither is given. Raises InvalidRequest if both are."""
    if token is not None and token_file is not None:
        raise InvalidRequest("token or token_file, not both")
    shown = token if token_file is None else TokenFile(token_file)
    return None if shown is None else Authorization(shown, allow_insecure=allow_insecure)


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or address.startswith("unix:")


def authorized(channel: grpc.aio.Channel, authorization: Callable[[], str]) -> grpc.aio.Channel:
    """The channel, each of whose calls shows what `authorization` answers then."""
    made: Any = _AuthorizedChannel(channel, authorization)
    return made  # type: ignore[no-any-return]  # it is what stubs need of one


def authorized_factory(
    open_channel: Callable[[str], grpc.aio.Channel], authorization: Authorization, *, is_secret: bool
) -> Callable[[str], grpc.aio.Channel]:
    """Channels that show who calls. `is_secret`: what they carry can be read by nobody else."""

    def open_authorized(address: str) -> grpc.aio.Channel:
        if not is_secret:
            authorization.require_secrecy(address)
        return authorized(open_channel(address), authorization)

    return open_authorized


class _AuthorizedChannel:
    """What generated stubs ask of a channel. An interceptor would do the same, at several times the cost of a call."""

    def __init__(self, channel: grpc.aio.Channel, authorization: Callable[[], str]) -> None:
        self._channel = channel
        self._authorization = authorization
        self.unary_unary = self._calling(channel.unary_unary)
        self.unary_stream = self._calling(channel.unary_stream)
        self.stream_unary = self._calling(channel.stream_unary)
        self.stream_stream = self._calling(channel.stream_stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def _calling(self, make: Any) -> Any:
        def made(*arguments: Any, **options: Any) -> Any:
            call = make(*arguments, **options)

            def authorized_call(*given: Any, **more: Any) -> Any:
                return call(*given, metadata=((KEY, self._authorization()),), **more)

            return authorized_call

        return made
