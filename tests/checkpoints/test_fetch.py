"""Fetching from the package index: what is pinned or nothing, once, whole, and from anywhere."""

import re
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from beside import load

from jaxsink.checkpoints import CATALOGUE, cache_folder, fetch, find_asset, is_cached

refused = load(__file__, "refusals").refused


def kept(folder):
    """All files of the cache; what is under way counts."""
    return sorted(path.name for path in Path(folder).rglob("*") if path.is_file())


def test_a_fetch_keeps_the_files_of_the_row_and_no_others(tiny, tmp_path, monkeypatch):
    asset = tiny()
    # A folder where `python -m pip` would find another pip.
    (tmp_path / "pip.py").write_text("raise SystemExit('the wrong pip')")
    monkeypatch.chdir(tmp_path)
    seen = []
    assert not is_cached(asset)
    path = fetch("tiny", progress=seen.append)
    assert path.read_bytes() == b"weights" * 1000
    assert kept(cache_folder()) == ["config.json", "weights.bin"]
    assert path.parent == tmp_path / "cache" / "tiny" / asset.digest
    assert is_cached(asset)
    assert seen
    assert all(count >= 0 for count in seen)


def test_a_second_fetch_asks_nobody(tiny, monkeypatch):
    tiny()
    path = fetch("tiny")
    monkeypatch.setattr(subprocess, "Popen", None)
    assert fetch("tiny") == fetch("tiny", offline=True) == path


def test_a_relative_cache(tiny, tmp_path, monkeypatch):
    tiny()
    monkeypatch.chdir(tmp_path)
    assert fetch("tiny", cache=Path("here")).read_bytes() == b"weights" * 1000
    assert kept("here") == ["config.json", "weights.bin"]


def test_a_changed_archive_is_refused(tiny):
    tiny(sha256="0" * 64)
    refused(lambda: fetch("tiny"), "jaxsink-tiny==1.0", "content has changed", "0" * 16)
    assert kept(cache_folder()) == []


def test_a_changed_file_is_refused(tiny):
    asset = tiny()
    tiny(files=(asset.files[0], replace(asset.files[1], sha256="0" * 64)))
    refused(lambda: fetch("tiny"), "tiny/config.json", "content has changed", "0" * 16)
    assert kept(cache_folder()) == []


def test_a_row_with_other_files_does_not_take_what_was_cached(tiny):
    asset = tiny()
    first = fetch("tiny")
    tiny(files=asset.files[1:])
    second = fetch("tiny")
    assert (first.name, second.name) == ("weights.bin", "config.json")
    assert first.parent != second.parent


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"short"), lambda path: path.unlink()])
def test_a_file_that_was_changed_in_the_cache(tiny, damage):
    tiny()
    path = fetch("tiny")
    damage(path.with_name("config.json"))
    refused(lambda: fetch("tiny"), str(path.with_name("config.json")), f"delete {path.parent}")


def test_an_index_that_does_not_have_it(tiny):
    tiny(version="2.0")
    refused(lambda: fetch("tiny"), "jaxsink-tiny==2.0", "No matching distribution")
    tiny()
    refused(lambda: fetch("tiny", offline=True), "'tiny'", "jaxsink fetch tiny")
    assert kept(cache_folder()) == []


def test_an_interpreter_without_pip(tiny, tmp_path, monkeypatch):
    tiny()
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    refused(lambda: fetch("tiny"), str(bare), "install pip")


def test_a_cache_that_cannot_be_written(tiny, tmp_path):
    tiny()
    (tmp_path / "file").touch()
    refused(lambda: fetch("tiny", cache=tmp_path / "file"), "JAXSINK_CACHE", str(tmp_path / "file"))


def test_fetches_at_the_same_time_do_not_disturb_each_other(tiny):
    tiny()
    with ThreadPoolExecutor(3) as pool:
        paths = set(pool.map(lambda _: fetch("tiny"), range(3)))
    (path,) = paths
    assert path.read_bytes() == b"weights" * 1000
    assert kept(cache_folder()) == ["config.json", "weights.bin"]


def test_an_interrupted_fetch_leaves_nothing(tiny):
    tiny()

    def interrupt(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("tiny", progress=interrupt)
    assert kept(cache_folder()) == []
    assert fetch("tiny").exists()


def test_weights_that_torch_pickled_need_torch_before_anything_is_downloaded(tiny, monkeypatch):
    asset = tiny()
    tiny(files=(replace(asset.files[0], becomes=replace(asset.files[0], member="model.safetensors")), asset.files[1]))
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    monkeypatch.setattr(subprocess, "Popen", None)
    refused(lambda: fetch("tiny"), "'tiny'", "needs torch", "there is none here", "pip install 'jaxsink[parity]'")
    refused(lambda: fetch("tiny", offline=True), "jaxsink fetch tiny")
    assert kept(cache_folder()) == []


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXSINK_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_folder() == Path("/a")
    monkeypatch.delenv("JAXSINK_CACHE")
    assert cache_folder() == Path("/b/jaxsink")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "jaxsink"


def test_an_unknown_name_brings_the_nearest():
    refused(lambda: find_asset("smolm"), "'smolm'", "'smollm2-135m'", "jaxsink fetch")
    refused(lambda: fetch("../../etc"), "'../../etc'")


@pytest.mark.parametrize("asset", CATALOGUE, ids=lambda asset: asset.name)
def test_a_row_pins_everything(asset):
    assert asset == find_asset(asset.name)
    assert re.fullmatch(r"[\w.-]+==[\d.]+", asset.requirement)
    hashes = [asset.sha256, *(file.sha256 for each in asset.files for file in (each, each.kept))]
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in hashes)
    names = [file.kept.name for file in asset.files]
    assert len(set(names)) == len(names)
    assert all(names)
    assert asset.licence


def test_no_package_is_imported(asset_path):
    # In a process of its own: another test may load anything.
    code = textwrap.dedent("""
        import sys
        from jaxsink.checkpoints import CATALOGUE, fetch
        fetch("glassllm", offline=True)
        print(sorted({asset.package.replace("-", "_") for asset in CATALOGUE} & set(sys.modules)))
    """)
    asset_path("glassllm")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
