"""What all commands have in common."""

from __future__ import annotations

import msgspec


class Command(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of all commands."""
