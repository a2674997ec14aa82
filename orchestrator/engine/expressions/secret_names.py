"""How secrets are called, by those who put them and by those who name them."""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")
NAME_RULE = "the name of a secret has up to 100 letters, digits, '_' and '-', and begins with a letter or '_'"


def is_secret_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None
