"""The keys of a node, as its key file has them now: who changes the file need not restart the node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from orchestrator.file_watch import FileWatch, OffLoop
from orchestrator.sealing.errors import KeyFileInvalid, NoKeys
from orchestrator.sealing.keys import Keys, parse_key_file

logger = logging.getLogger(__name__)


class KeyFile:
    """`path`: None where the node has no keys. `read`: the bytes of a file; blocks, raises OSError."""

    def __init__(
        self, path: Path | None, read: Callable[[Path], bytes], off_loop: OffLoop = asyncio.to_thread
    ) -> None:
        self._path = path
        self._read = read
        self._off_loop = off_loop
        self._file: FileWatch[bytes, Keys] | None = None

    def load(self) -> None:
        """For the start: raises KeyFileInvalid, so that a node without its keys does not seem to have them."""
        path, read = self._path, self._read
        if path is not None:
            self._file = FileWatch(
                "the secret keys",
                lambda: read_text(path, read),
                lambda text: parse_key_file(text, str(path)),
                KeyFileInvalid,
                off_loop=self._off_loop,
            )
            self._file.on_taken = _told
            _told(self._file.current)

    async def run(self) -> None:
        """Looks after the file until it is cancelled; returns at once where there is none."""
        if self._file is not None:
            await self._file.run()

    async def look(self) -> None:
        if self._file is not None:
            await self._file.look()

    @property
    def keys(self) -> Keys:
        """Those of the file, or those that it had before if it can't be read or is broken now. Raises NoKeys."""
        if self._file is None:
            raise NoKeys("this node has no secret_keys_file")
        return self._file.current


def _told(keys: Keys) -> None:
    logger.info("the secret keys are read", extra={"keys": ", ".join(keys.ids)})


def load_keys(path: Path, read: Callable[[Path], bytes]) -> Keys:
    """Raises KeyFileInvalid."""
    return parse_key_file(read_text(path, read), str(path))


def read_text(path: Path, read: Callable[[Path], bytes]) -> bytes:
    """Raises KeyFileInvalid."""
    try:
        return read(path)
    except OSError as error:
        raise KeyFileInvalid(f"{path} can't be read: {error.strerror or type(error).__name__}") from None
