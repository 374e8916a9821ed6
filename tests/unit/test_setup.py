"""The scripts that set up a machine: quick when there is nothing to do, silent on standard output, clear when stuck."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ("bin/demo", "bin/test", ".ci/run")


def bash(words: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f". {ROOT}/bin/_setup\n{words}"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """As much of the project as the set-up looks at, without an environment."""
    for name in ("requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_can_be_started_and_have_no_slips(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", ROOT / script, ROOT / "bin/_setup"], check=True)
    assert "set -euo pipefail" in (ROOT / script).read_text()


def test_continuous_integration_runs_the_tests_and_nothing_else() -> None:
    assert (ROOT / ".ci/run").read_text().splitlines()[-1].startswith('exec "$(dirname')
    assert "bin/test" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("purpose", ["demo", "test"])
def test_second_time_there_is_nothing_to_do(purpose: str) -> None:
    if bash("usable_environment").returncode:
        pytest.skip("this environment was not made by bin/test, or not from what stands here now")
    begun = time.monotonic()
    done = bash(f"setup {purpose}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert time.monotonic() - begun < 3


def test_standard_output_belongs_to_the_program(copy: Path) -> None:
    """`bin/demo --json` promises JSON on the first line, also when there was much to set up before."""
    done = bash(
        """
        with_uv() { echo "from uv"; mkdir -p .venv; }
        usable_environment() { return 1; }
        have() { return 0; }
        setup demo
        """,
        copy,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "from uv" in done.stderr


def test_without_the_right_to_install_it_says_what_is_missing(copy: Path) -> None:
    done = bash("have() { return 1; }; apt_get() { return 1; }; setup test", copy)
    assert done.returncode == 1
    line = next(line for line in done.stderr.splitlines() if "apt-get install" in line)
    for package in (
        "libpango-1.0-0",
        "libharfbuzz-subset0",
        "fonts-dejavu-core",
        "postgresql",
        "qpdf",
        "gettext",
    ):
        assert package in line
    assert not (copy / ".venv").exists()


def test_with_the_right_to_install_only_what_is_missing_is_installed(copy: Path) -> None:
    done = bash(
        """
        have() { [ "$1" != qpdf ]; }
        apt_get() { echo "echo APT"; }
        environment() { :; }
        setup test
        """,
        copy,
    )
    assert done.returncode == 0, done.stderr
    assert "APT install -qq -y --no-install-recommends qpdf\n" in done.stderr


def test_without_debians_chromium_playwright_fetches_one(copy: Path) -> None:
    (copy / ".venv/bin").mkdir(parents=True)
    (copy / ".venv/bin/playwright").write_text("#!/bin/sh\necho PLAYWRIGHT $*\n")
    (copy / ".venv/bin/playwright").chmod(0o755)
    done = bash("found_chromium() { return 1; }; apt_get() { return 1; }; browser", copy)
    assert done.returncode == 0
    assert "PLAYWRIGHT install chromium" in done.stdout


def test_an_old_python_is_passed_over(copy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "path"
    folder.mkdir()
    for name in ("python3", "python3.14", "python3.13", "python3.12"):
        (folder / name).write_text("#!/bin/sh\nexit 1\n")
        (folder / name).chmod(0o755)
    (folder / "python3.11").write_text("#!/bin/sh\nexit 0\n")
    (folder / "python3.11").chmod(0o755)
    done = bash("find_python", copy, PATH=f"{folder}:{os.environ['PATH']}")
    assert done.stdout.strip() == str(folder / "python3.11")


@pytest.mark.parametrize("change", ["lock", "configuration", "folder"])
def test_environment_is_made_anew_when_what_it_came_from_changed(
    copy: Path, tmp_path: Path, change: str
) -> None:
    before = bash("stamp", copy).stdout
    assert before == bash("stamp", copy).stdout
    if change == "folder":
        copy = shutil.copytree(copy, tmp_path / "elsewhere")
    else:
        with (copy / {"lock": "requirements.lock", "configuration": "pyproject.toml"}[change]).open(
            "a"
        ) as file:
            file.write("\n[project.more]\n")
    assert bash("stamp", copy).stdout != before


def test_environment_stays_when_only_a_tool_is_set_otherwise(copy: Path) -> None:
    before = bash("stamp", copy).stdout
    with (copy / "pyproject.toml").open("a") as file:
        file.write("\n[tool.ruff.more]\nanything = 1\n")
    assert bash("stamp", copy).stdout == before


def test_lock_names_no_host_and_hashes_every_package() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    entries = re.split(r"\n(?=[a-z0-9])", lock)
    pinned = [entry for entry in entries if re.match(r"[a-z0-9_.\-\[\],]+==", entry)]
    assert len(pinned) > 50
    assert all("--hash=sha256:" in entry for entry in pinned)


FLOORS = {
    "starlette": (1, 3, 1),
    "python-multipart": (0, 0, 30),
    "weasyprint": (70, 0),
    "pillow": (12, 3, 0),
    "jinja2": (3, 1, 6),
    "aiosmtplib": (5, 1, 3),
    "h11": (0, 16, 0),
    "pysqlite3": (0, 6, 1),
}


@pytest.mark.parametrize("name", FLOORS)
def test_locked_versions_are_not_below_the_safe_ones(name: str) -> None:
    found = re.search(
        rf"(?m)^{re.escape(name)}(?:\[[^\]]*\])?==([0-9.]+)", (ROOT / "requirements.lock").read_text()
    )
    assert found is not None
    assert tuple(map(int, found[1].split("."))) >= FLOORS[name]


def test_every_dependency_is_a_decision_with_a_reason() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[\[~><=]", one)[0] for one in wanted}
    described = set(
        re.findall(r"^\| `([a-z0-9\-]+)", (ROOT / "docs/dependencies.md").read_text(), re.MULTILINE)
    )
    assert described == names


def test_procfile_starts_commands_that_exist() -> None:
    from portal.__main__ import app

    commands = {
        command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands
    }
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    assert set(lines) == {"web", "worker", "release"}
    for line in lines.values():
        program, command = line.split()[:2]
        assert program == ".venv/bin/portal"
        assert command in commands
