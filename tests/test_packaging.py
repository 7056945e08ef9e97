"""One list of dependencies and one lock: setup.py, requirements.txt and the imports of the code agree."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SHIPPED = ["cli", "schemas", "storage", "transforms", "audit", "pipelines", "publisher", "local"]
TOOLS = ["templates", "tests", "bench"]


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the arguments that setup.py passes to setuptools."""
    passed: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", passed.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    return passed


def locked() -> dict[str, list[Requirement]]:
    """Return the lock's pins by name. A package may be pinned several times, for different Pythons."""
    pins: dict[str, list[Requirement]] = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if not line.startswith((" ", "#")):
            pin = Requirement(line.rstrip(" \\"))
            pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    return pins


def imports(rooms: list[str]) -> Iterator[tuple[str, str]]:
    """Yield each module that files of the rooms import, with the file's name."""
    for path in sorted(path for room in rooms for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                # `from google.cloud import bigquery`: google.cloud itself belongs to no distribution, its module does.
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((name, str(path.relative_to(ROOT))) for name in names)


@cache
def distributions() -> dict[str, str]:
    """Return the installed distribution of each module or package, by its dotted name."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        owner = canonicalize_name(distribution.metadata["Name"])
        for line in (distribution.read_text("RECORD") or "").splitlines():
            file = line.partition(",")[0]
            if file.endswith((".py", ".so")):
                folder, _, name = file.rpartition("/")
                module = folder if name == "__init__.py" else f"{folder}/{name.partition('.')[0]}".lstrip("/")
                found[module.replace("/", ".")] = owner
    return found


def undeclared(rooms: list[str], declared: set[str]) -> list[str]:
    """Return the imports of the rooms that no declared dependency provides."""
    own, providers, missing = {*SHIPPED, *TOOLS}, distributions(), []
    for name, path in imports(rooms):
        if name.split(".")[0] in own | sys.stdlib_module_names:
            continue
        parts = name.split(".")
        prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
        provider = next((providers[prefix] for prefix in prefixes if prefix in providers), None)
        if provider not in declared:
            missing.append(f"{path}: {name} comes from {provider or 'no installed distribution'}")
    return missing


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(requirement).name) for requirement in requirements}


def test_lock__versions_fit_setup_py(package: dict[str, Any]) -> None:
    """The lock pins every direct dependency to a version that setup.py allows."""
    pins = locked()
    for requirement in map(Requirement, package["install_requires"] + package["extras_require"]["dev"]):
        for pin in pins[canonicalize_name(requirement.name)]:
            (version,) = pin.specifier
            assert version.operator == "=="
            assert version.version in requirement.specifier, f"{pin} does not fit {requirement}: run `make lock`"


def test_lock__has_hashes() -> None:
    entries = re.split(r"\n(?=[^ #])", (ROOT / "requirements.txt").read_text())[1:]
    assert len(entries) > 100
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []


def test_lock__names_no_registry_and_no_path() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wrong = [line for line in lines if re.search(r"://|--(index|extra|find|trusted)|@|(^|[\s=])/|file:", line)]
    assert wrong == []


def test_python_versions__agree(package: dict[str, Any]) -> None:
    """setup.py, the Makefile and pyproject.toml name the same Python versions."""
    allowed = SpecifierSet(package["python_requires"])
    assert [minor for minor in range(8, 20) if f"3.{minor}.0" in allowed] == [11, 12, 13, 14]
    makefile, tools = (ROOT / "Makefile").read_text(), (ROOT / "pyproject.toml").read_text()
    assert "(3, 11) <= sys.version_info[:2] < (3, 15)" in makefile
    assert "--python-version 3.11 " in makefile
    assert 'target-version = "py311"' in tools
    assert 'python_version = "3.11"' in tools


def test_dependencies__of_shipped_code(package: dict[str, Any]) -> None:
    """All imports of the shipped code are declared."""
    assert undeclared(SHIPPED, names(package["install_requires"])) == []


def test_dependencies__of_tests_and_tools(package: dict[str, Any]) -> None:
    """All imports of tests and tools are declared."""
    assert undeclared(TOOLS, names(package["install_requires"] + package["extras_require"]["dev"])) == []


def test_make__prints_every_target() -> None:
    """`make` without a target prints every target with a sentence."""
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert targets
    # --no-print-directory: make prints the directory if this test itself is run by make.
    printed = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = [re.fullmatch(r"make ([a-z-]+) +[A-Z].{10,}", line) for line in printed.splitlines()]
    assert [line and line[1] for line in lines] == targets[1].split()
    assert max(map(len, printed.splitlines())) <= 80


def test_make_venv__no_python_fits(tmp_path: Path) -> None:
    """`make venv` prints a hint if no suitable Python is installed, and leaves no `.venv`."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.txt", "setup.py"):
        (tmp_path / name).touch()
    for python in ("python3", "python3.12"):
        (tmp_path / python).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / python).chmod(0o755)
    make = shutil.which("make")
    assert make
    path = {"PATH": str(tmp_path)}
    result = subprocess.run([make, "venv"], check=False, cwd=tmp_path, capture_output=True, text=True, env=path)
    assert result.returncode != 0
    assert "make venv PYTHON=" in result.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder with the Makefile, and with a `.venv` whose Python only writes down its arguments."""
    for name in ("Makefile", "requirements.txt", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@" >> calls\ntest ! -e "fail"\n')
    python.chmod(0o755)
    return tmp_path


def make_venv(checkout: Path) -> list[str]:
    """Run `make venv` and return the calls of Python that it made."""
    calls = checkout / "calls"
    calls.unlink(missing_ok=True)
    subprocess.run(["make", "venv"], cwd=checkout, capture_output=True, check=not (checkout / "fail").exists())
    return calls.read_text().splitlines() if calls.exists() else []


INSTALL = "-m pip install --no-deps --require-hashes"
STEPS = [
    f"{INSTALL} -r .venv/setuptools.txt",
    f"{INSTALL} --no-build-isolation -r .venv/google-apitools.txt",
    f"{INSTALL} -r requirements.txt",
    "-m pip check",
    "-m pip install --no-deps --no-build-isolation --no-index -e .",
]


def test_make_venv__installs_the_lock_and_checks_it(checkout: Path) -> None:
    assert make_venv(checkout) == STEPS
    for package in ("setuptools", "google-apitools"):
        pinned = (checkout / ".venv" / f"{package}.txt").read_text()
        assert set(re.findall(r"^(\S+)==", pinned, re.MULTILINE)) == {package}
        assert pinned.count("--hash=sha256:") >= 2


def test_make_venv__compares_content_not_time(checkout: Path) -> None:
    make_venv(checkout)
    for name in ("requirements.txt", "setup.py"):
        os.utime(checkout / name)
    assert make_venv(checkout) == []


def test_make_venv__updates_in_place(checkout: Path) -> None:
    make_venv(checkout)
    with (checkout / "requirements.txt").open("a") as lock:
        lock.write("# another pin\n")
    assert make_venv(checkout) == STEPS
    assert (checkout / ".venv" / "bin" / "python").exists()


def test_make_venv__python_gone(checkout: Path) -> None:
    """An environment whose Python was removed is created and installed again."""
    make_venv(checkout)
    python = checkout / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/no/such/python")
    planned = subprocess.run(["make", "-n", "venv"], cwd=checkout, capture_output=True, text=True, check=True).stdout
    assert "-m venv --clear" in planned
    assert "-r requirements.txt" in planned


def test_make_venv__begins_again_after_a_failure(checkout: Path) -> None:
    (checkout / "fail").touch()
    assert make_venv(checkout) == STEPS[:1]
    (checkout / "fail").unlink()
    assert make_venv(checkout) == STEPS


@pytest.mark.integration
def test_wheel__contents(tmp_path: Path) -> None:
    """The wheel has every shipped room and the contracts, but no tests and no tools."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "requirements.txt"):
        shutil.copy(ROOT / name, source)
    for room in SHIPPED + TOOLS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    build = ["pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir"]
    subprocess.run([sys.executable, "-m", *build, tmp_path, source], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    shipped = {Path(name) for name in zipfile.ZipFile(wheel).namelist()}
    expected = {
        path.relative_to(source) for room in SHIPPED for path in (source / room).rglob("*") if path.suffix in (".py", ".avsc")
    }
    assert {path for path in shipped if not path.parts[0].endswith(".dist-info")} == expected
    assert any(path.suffix == ".avsc" for path in shipped)
