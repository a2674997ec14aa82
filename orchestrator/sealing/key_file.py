"""The keys of a node, as its key file has them now: who changes the file need not restart the node."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from orchestrator.sealing.errors import KeyFileInvalid, NoKeys
from orchestrator.sealing.keys import Keys, parse_key_file

# The file is read again when it is asked for after this.
READ_AGAIN_SECONDS = 1.0

logger = logging.getLogger(__name__)


class KeyFile:
    """`path`: None where the node has no keys. `read`: the bytes of a file; raises OSError."""

    def __init__(
        self, path: Path | None, read: Callable[[Path], bytes], monotonic: Callable[[], float]
    ) -> None:
        self._path = path
        self._read = read
        self._monotonic = monotonic
        self._read_at = 0.0
        self._text = b""
        self._keys: Keys | None = None
        # What was last said about a file that is broken.
        self._complaint = ""

    def load(self) -> None:
        """For the start: raises KeyFileInvalid, so that a node without its keys does not seem to have them."""
        if self._path is not None:
            self._read_at = self._monotonic()
            self._take(read_text(self._path, self._read))

    @property
    def keys(self) -> Keys:
        """Those of the file, or those that it had before if it can't be read or is broken now. Raises NoKeys."""
        if self._path is not None and self._monotonic() - self._read_at >= READ_AGAIN_SECONDS:
            self._read_at = self._monotonic()
            try:
                text = read_text(self._path, self._read)
                if text != self._text:
                    self._take(text)
                self._complaint = ""
            except KeyFileInvalid as error:
                self._complain(str(error))
        if self._keys is None:
            raise NoKeys("this node has no secret_keys_file")
        return self._keys

    def _complain(self, message: str) -> None:
        """Once for each thing that is wrong, not with every look."""
        if message != self._complaint:
            self._complaint = message
            logger.warning("the secret keys remain as they were: %s", message)

    def _take(self, text: bytes) -> None:
        keys = parse_key_file(text, str(self._path))
        self._keys, self._text = keys, text
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
