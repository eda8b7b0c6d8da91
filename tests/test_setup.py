"""Setting up: `make env` installs once and repairs what is half made; a wheel holds every file."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("bots", "core", "training")

# Writes down how it is called. `uv venv` makes an environment whose Python imports anything, except
# while files are lost that only a reinstallation brings back.
UV = """#!/bin/sh
echo "$*" >> "$UV_CALLS"
case "$*" in
"$UV_FAILS"*) exit 1 ;;
venv*)
    for folder in "$@"; do :; done
    rm -rf "$folder"
    mkdir -p "$folder/bin"
    printf '#!/bin/sh\\n[ "$2" != "import solemate" ] || [ ! -e "$UV_CALLS.lost" ]\\n' \\
        > "$folder/bin/python"
    chmod +x "$folder/bin/python"
    ;;
*--reinstall) rm -f "$UV_CALLS.lost" ;;
esac
"""


class Project:
    """A copy of what `make env` reads, with a `uv` that only pretends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._calls = folder / "calls"
        self.python = folder / "project" / ".venv" / "bin" / "python"
        self.stamp = folder / "project" / ".venv" / ".installed"
        self.lost = folder / "calls.lost"
        tools = folder / "tools"
        for made in (tools, self.python.parents[2]):
            made.mkdir()
        for name in ("Makefile", "pyproject.toml", "requirements.lock"):
            shutil.copy(ROOT / name, self.python.parents[2])
        (tools / "uv").write_text(UV, "utf-8")
        (tools / "uv").chmod(0o755)

    def make_env(self, fails: str = "nothing", *, python: str = "python3") -> tuple[int, list[str]]:
        """Run `make env`: its exit status, and what `uv` was asked for; it refuses `fails`."""
        self._calls.write_text("", "utf-8")
        environment = {
            "PATH": f"{self._folder / 'tools'}:{os.environ['PATH']}",
            "UV_CALLS": str(self._calls),
            "UV_FAILS": fails,
            "PYTHON": python,
        }
        done = subprocess.run(
            ["make", "env"],
            cwd=self.python.parents[2],
            env=environment,
            capture_output=True,
            text=True,
        )
        calls = self._calls.read_text("utf-8").splitlines()
        return done.returncode, [" ".join(call.split()[:2]) for call in calls]

    def change(self, name: str) -> None:
        """Add a line to a file of the project."""
        with (self.python.parents[2] / name).open("a") as file:
            file.write("# changed\n")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


INSTALLING = ["pip install", "pip install"]
MAKING = ["venv --quiet", *INSTALLING]


def test_the_second_time_nothing_is_installed(project: Project) -> None:
    assert project.make_env() == (0, MAKING)
    assert project.make_env() == (0, [])


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_what_changed_is_installed_into_the_same_environment(project: Project, name: str) -> None:
    project.make_env()
    project.change(name)
    assert project.make_env() == (0, INSTALLING)
    assert project.make_env() == (0, [])


def test_an_installation_that_failed_is_taken_up_again(project: Project) -> None:
    status, _ = project.make_env(fails="pip install --quiet --python .venv/bin/python --no-deps")
    assert status != 0
    assert not project.stamp.exists()
    assert project.make_env() == (0, INSTALLING)
    assert project.make_env() == (0, [])


def test_an_environment_without_its_stamp_is_installed_again(project: Project) -> None:
    project.make_env()
    project.stamp.unlink()
    assert project.make_env() == (0, INSTALLING)


def test_a_package_that_has_lost_its_files_is_installed_anew(project: Project) -> None:
    project.make_env()
    project.lost.touch()
    assert project.make_env() == (0, [*INSTALLING, "pip install"])
    assert project.make_env() == (0, [])


def test_what_cannot_be_imported_in_the_end_is_not_called_installed(project: Project) -> None:
    project.make_env()
    project.lost.mkdir()
    status, calls = project.make_env()
    assert status != 0
    assert calls == [*INSTALLING, "pip install"]
    assert not project.stamp.exists()


@pytest.mark.parametrize("broken", ["missing", "a dangling link", "not to be run"])
def test_an_environment_whose_python_is_broken_is_made_anew(project: Project, broken: str) -> None:
    project.make_env()
    match broken:
        case "missing":
            project.python.unlink()
        case "a dangling link":
            project.python.unlink()
            project.python.symlink_to("/nowhere/python3")
        case _:
            project.python.chmod(0o644)
    assert project.make_env() == (0, MAKING)
    assert project.make_env() == (0, [])


def test_a_wheel_holds_every_module_and_every_file_beside_them() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    patterns = options["package-data"]["*"]
    files = [
        file
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    ]
    modules = [file for file in files if file.suffix == ".py"]
    others = [file for file in files if file.suffix != ".py"]
    assert [file for file in modules if not (file.parent / "__init__.py").exists()] == []
    assert [
        file for file in others if not any(fnmatch(file.name, pattern) for pattern in patterns)
    ] == []


def test_a_python_that_does_not_suit_is_refused_before_anything_is_made(project: Project) -> None:
    status, calls = project.make_env(python="false")
    assert status != 0
    assert calls == []


def test_the_python_of_an_environment_that_suits_goes_on_being_used(project: Project) -> None:
    project.make_env()
    project.change("requirements.lock")
    assert project.make_env(python="false") == (0, INSTALLING)
