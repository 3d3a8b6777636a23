"""What is built and installed: the files of the wheel, one version, a script that works anywhere."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import jaxsink

ROOT = Path(__file__).parent.parent
PACKAGES = ("jaxsink", "theory", "experiments")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The paths inside a wheel built from this tree, without the network."""
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(target)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = target.glob("jaxsink-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_holds_every_file_of_the_packages(wheel_files: set[str]) -> None:
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    expected = {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".pyc"}
    assert {f"{package}/py.typed" for package in PACKAGES} <= expected
    assert expected - wheel_files == set()


def test_wheel_holds_nothing_else(wheel_files: set[str]) -> None:
    others = {name for name in wheel_files if not name.startswith(tuple(f"{package}/" for package in PACKAGES))}
    assert all(name.startswith(f"jaxsink-{PROJECT['version']}.dist-info/") for name in others), others
    assert any(name.endswith("/licenses/LICENSE") for name in others)


def test_installed_version_is_the_declared_one() -> None:
    assert jaxsink.__version__ == PROJECT["version"], (
        "jaxsink is not installed here, or an old one is: run `make setup`"
    )


def test_console_script_ignores_folders_with_the_names_of_its_packages(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "jaxsink"
    assert script.exists(), f"{script} is missing: run `make setup` and test with .venv/bin/python"
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise RuntimeError('the wrong package')\n")
    done = subprocess.run([script, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "verify" in done.stdout
