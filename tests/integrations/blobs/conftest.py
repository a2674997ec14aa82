from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integrations.blobs.kits import DirectoryKit, Kit, directory_kit


@pytest.fixture
async def directory(tmp_path: Path) -> AsyncIterator[DirectoryKit]:
    async with directory_kit(tmp_path) as kit:
        yield kit


@pytest.fixture(params=["directory"])
def kit(request: pytest.FixtureRequest) -> Kit:
    return request.getfixturevalue(request.param)
