"""What can go wrong with keys and what they seal. No message has a value or a key in it."""

from __future__ import annotations


class SealingError(Exception):
    """Base of all that follows."""


class KeyFileInvalid(SealingError):
    """The file can't be read, or breaks a rule; the message names file and line."""


class NoKeys(SealingError):
    """This node has no keys: it neither seals nor opens anything."""


class KeyUnknown(SealingError):
    """This node has keys, but not the one that the value is sealed with."""


class SealBroken(SealingError):
    """The value was changed, or belongs elsewhere."""
