"""The set-up script on bare machines, and that the files of the package agree with each other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "dirname", "cat", "cksum", "rm", "mkdir", "cp", "env")

#: Stands in for a Python: says yes to every question, writes down what it is asked to install.
FAKE_PYTHON = """#!/usr/bin/env bash
if [ "$1" = -V ]; then echo "Python 3.12.0"
elif [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"
elif [ "$1 $2 $3" = "-m pip install" ]; then echo "$@" >> "$LOG"; exit "${PIP_STATUS:-0}"
fi
"""


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkout on a machine that has a shell and nothing else."""
    checkout = tmp_path / "opkit"
    (checkout / "scripts").mkdir(parents=True)
    for name in ("pyproject.toml", "constraints.txt", "scripts/setup.sh"):
        shutil.copy(ROOT / name, checkout / name)
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tools / tool).symlink_to(found)
    return checkout


def setup(checkout: Path, **env: str) -> subprocess.CompletedProcess[str]:
    home = checkout.parent
    return subprocess.run(
        ["bash", "scripts/setup.sh"],
        cwd=checkout,
        env={"PATH": str(home / "bin"), "HOME": str(home), "LOG": str(home / "log"), **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def test_no_python_says_what_to_install(bare: Path) -> None:
    done = setup(bare)
    assert done.returncode == 1
    assert "no Python 3.12 or newer" in done.stderr
    assert "apt install python3.12-venv" in done.stderr
    assert not (bare / ".venv").exists()


def test_python_that_is_named_but_too_old(bare: Path) -> None:
    old = executable(bare.parent / "old", "#!/usr/bin/env bash\nexit 1\n")
    done = setup(bare, PYTHON=str(old))
    assert (done.returncode, done.stderr.strip()) == (
        1,
        f"setup: PYTHON={old}: need Python 3.12 or newer",
    )
    assert "no such command" in setup(bare, PYTHON="/none").stderr


def test_pyenv_version_is_found_though_its_shim_fails(bare: Path) -> None:
    home = bare.parent
    executable(home / "bin" / "python3.12", "#!/usr/bin/env bash\nexit 127\n")  # shim, not selected
    executable(home / ".pyenv" / "versions" / "3.13.1" / "bin" / "python3", FAKE_PYTHON)
    done = setup(bare)
    assert done.returncode == 0, done.stderr
    assert ".pyenv/versions/3.13.1/bin/python3" in done.stderr
    assert "-c constraints.txt -e .[dev,docs]" in (home / "log").read_text()


def test_second_run_does_nothing_until_the_requirements_change(bare: Path) -> None:
    log = bare.parent / "log"
    python = executable(bare.parent / "python", FAKE_PYTHON)
    assert setup(bare, PYTHON=str(python)).returncode == 0
    assert len(log.read_text().splitlines()) == 1
    again = setup(bare)  # needs no Python to be found any more
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert len(log.read_text().splitlines()) == 1
    with (bare / "constraints.txt").open("a") as f:
        f.write("# changed\n")
    assert setup(bare).returncode == 0
    assert len(log.read_text().splitlines()) == 2


def test_failed_installation_is_tried_again(bare: Path) -> None:
    python = executable(bare.parent / "python", FAKE_PYTHON)
    failed = setup(bare, PYTHON=str(python), PIP_STATUS="1")
    assert failed.returncode == 1
    assert "pip could not install opkit" in failed.stderr
    assert setup(bare).returncode == 0
    assert len((bare.parent / "log").read_text().splitlines()) == 2


def test_missing_compiler_is_a_warning(bare: Path) -> None:
    done = setup(bare, PYTHON=str(executable(bare.parent / "python", FAKE_PYTHON)))
    assert done.returncode == 0
    assert "warning: no C compiler. The fenicsx solver" in done.stderr


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_constraints_pin_every_requirement_within_its_range() -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, equals, pin = line.partition("==")
            assert equals and re.fullmatch(r"[0-9][0-9a-z.]*", pin), line  # no URLs, no paths
            pins[canonicalize_name(name)] = Version(pin)
    extras = project()["optional-dependencies"]
    wanted = [*project()["dependencies"], *(r for rs in extras.values() for r in rs)]
    for text in wanted:
        r = Requirement(text)
        if r.name != "opkit":
            assert pins[canonicalize_name(r.name)] in r.specifier, text
            assert r.specifier, f"{text}: no range"


def test_version_is_the_same_everywhere() -> None:
    import opkit

    assert opkit.__version__ == version("opkit") == project()["version"]
    assert "BSD 3-Clause" in (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("script", ["scripts/setup.sh", ".ci/run"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)


def test_ci_fails_when_a_part_fails_and_ends_with_the_closing_line(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    closing = "======= 3 passed, 1 deselected in 0.12s ======="

    def run(lint: str, test: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "Makefile").write_text(f"lint:\n\t@{lint}\ntest:\n\t@{test}\n")
        command = ["bash", str(tmp_path / ".ci" / "run")]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    passed = f"mkdir -p .venv; echo '{closing}'"
    for lint, test, status in (
        ("true", passed, 0),
        ("false", passed, 1),
        ("true", f"{passed}; false", 1),
        ("true", "true", 1),  # no test ran
    ):
        done = run(lint, test)
        assert done.returncode == status, (lint, test)
        if "passed" in test:
            assert done.stdout.splitlines()[-1] == closing
