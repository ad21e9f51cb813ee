"""`pytest --device-side` runs what a Python 3.10 board can: the tests that need neither torch nor the server."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
BEYOND_A_BOARD = (
    "torch",
    "flwr",
    "sklearn",
    "PIL",
    "safetensors",
    "grpc_tools",
    "pleat_server",
    "pleat.nets",
    "pleat_client.trainer",
    "pleat_client.objectives",
    "pleat_client.task",
    "pleat_client.worker",
    "pleat_client.flower_app",
)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is cached between runs is cached between tests, and not where the user's is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device-side", action="store_true", help="only tests that need neither torch nor the server")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    left_out = config.getoption("--device-side") and collection_path.suffix == ".py" and needs_more(collection_path)
    return True if left_out else None


@cache
def needs_more(path: Path) -> bool:
    """Whether a test, or a helper it imports, imports what a board does not have."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    helpers = [TESTS / f"{name.replace('.', '/')}.py" for name in names if name.startswith("support.")]
    if path.name == "test_house.py":  # reads the tree as Python 3.11 does
        return True
    dear = any(name == d or name.startswith(f"{d}.") for name in names for d in BEYOND_A_BOARD)
    return dear or any(needs_more(h) for h in helpers if h.is_file())
