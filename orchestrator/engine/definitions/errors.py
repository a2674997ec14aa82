"""What is wrong with a definition, and where in the document.

Messages are part of replicated results: they never hold the words of a library, whose next release may change them.
"""

from __future__ import annotations

PATH_CHARACTERS_MAX = 1000


class DefinitionError(Exception):
    """Base. `path` is like `tasks[1].decisionCases.big[0].inputParameters.amount`, "" for the whole document."""

    def __init__(self, path: str, message: str) -> None:
        # Keys are the user's, and may be as long as a document.
        path = path if len(path) <= PATH_CHARACTERS_MAX else f"{path[:PATH_CHARACTERS_MAX]}..."
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message


class DefinitionInvalid(DefinitionError):
    """The document breaks a rule: it can never be accepted."""


class DefinitionUnimplemented(DefinitionError):
    """The document uses something that exists in Conductor and is not built here: refused, never ignored."""


def quoted(text: str, longest: int = 100) -> str:
    """A user's text for a message. Not repr(): what that escapes depends on the Unicode tables of the Python."""
    return f"'{text}'" if len(text) <= longest else f"'{text[:longest]}...'"
