"""Every test of a ``Contract`` runs over the cases of its class."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames and metafunc.cls is not None:
        metafunc.parametrize("case", metafunc.cls.cases, ids=str, scope="class")


@pytest.fixture(autouse=True, scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints are written anew, not found from before."""
    folder = tmp_path_factory.mktemp("checkpoints")
    patch = pytest.MonkeyPatch()
    patch.setenv("CTXSWEEP_CACHE", str(folder))
    return folder
