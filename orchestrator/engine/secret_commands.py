"""Commands that are about secrets, whose values come sealed: nothing in the log can open them.

As all commands they are encoded by position (see ``commands``).
"""

from __future__ import annotations

from orchestrator.engine.command import Command


class PutSecret(Command, frozen=True, tag=220):
    """`version` is one more than that of the secret that is there, 1 if there is none: it is sealed with the value."""

    namespace: str
    name: str
    version: int
    key_id: str
    sealed: bytes


class DeleteSecret(Command, frozen=True, tag=221):
    namespace: str
    name: str


class ResealSecret(Command, frozen=True, tag=222):
    """The same value under another key. Nothing happens if it is not that version any more."""

    namespace: str
    name: str
    version: int
    key_id: str
    sealed: bytes


SecretCommand = PutSecret | DeleteSecret | ResealSecret
