"""Who may import whom: `core` knows neither `bots` nor `training`, and those two never meet."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WALLS = [("core", {"bots", "training"}), ("bots", {"training"}), ("training", {"bots"})]


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize(("package", "forbidden"), WALLS, ids=[name for name, _ in WALLS])
def test_no_import_crosses_a_wall(package: str, forbidden: set[str]) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    crossing = {
        str(file.relative_to(ROOT)): sorted(found)
        for file in files
        if (found := forbidden & set(imported(file)))
    }
    assert crossing == {}


def test_only_the_settings_read_the_environment() -> None:
    readers = {
        str(file.relative_to(ROOT))
        for package in ("core", "bots", "training")
        for file in (ROOT / package).rglob("*.py")
        if "os.environ" in file.read_text(encoding="utf-8")
    }
    assert readers <= {
        "core/settings.py",
        "training/llamafactory.py",
        "training/llamafactory_cli.py",
        "training/servers/process.py",
    }
