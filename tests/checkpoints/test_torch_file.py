"""Weights that torch pickled: read once, by another interpreter, after their hash was compared; kept as safetensors."""

import hashlib
import io
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from beside import load
from safetensors.numpy import save

from jaxsink.checkpoints import cache_folder, fetch, open_safetensors
from jaxsink.checkpoints.catalogue import PackagedFile

torch = pytest.importorskip("torch")
refused = load(__file__, "refusals").refused
TENSORS = {"b": np.arange(3, dtype=np.int64), "a": np.arange(6, dtype=np.float32).reshape(2, 3)}


class Trap:
    """What runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def converted(content=save(TENSORS)):
    return PackagedFile("model.safetensors", hashlib.sha256(content).hexdigest(), len(content))


def becoming(row, file, weights=b"weights"):
    """The row "tiny" with these weights, which become this file."""
    asset = row(weights)
    return row(weights, files=(replace(asset.files[0], becomes=file), *asset.files[1:]))


def kept():
    return sorted(path.name for path in cache_folder().rglob("*") if path.is_file())


def pickled():
    # A transposed view, as some weights are stored.
    a = torch.tensor(np.ascontiguousarray(TENSORS["a"].T)).T
    file = io.BytesIO()
    torch.save({"b": torch.tensor(TENSORS["b"]), "a": a}, file)
    return file.getvalue()


def test_the_tensors_are_kept_as_safetensors_and_need_no_torch_again(tiny, monkeypatch):
    asset = becoming(tiny, converted(), pickled())
    path = fetch("tiny")
    assert path == cache_folder() / "tiny" / asset.digest / "model.safetensors"
    assert kept() == ["config.json", "model.safetensors"]
    with open_safetensors(path) as source:
        assert source.names() == ("a", "b")
        for name, tensor in TENSORS.items():
            assert source.dtype(name) == tensor.dtype
            np.testing.assert_array_equal(source.read(name), tensor)
    # Whoever may read other files of the cache may read this one.
    assert path.stat().st_mode == path.with_name("config.json").stat().st_mode
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    assert fetch("tiny") == path


def test_what_is_not_pinned_is_never_read(tiny, tmp_path):
    trap = pickle.dumps({"a": Trap(tmp_path / "sprung")})
    asset = becoming(tiny, converted(), trap)
    tiny(trap, files=(replace(asset.files[0], sha256="0" * 64),))
    refused(lambda: fetch("tiny"), "tiny/weights.bin", "content has changed")
    # And what is pinned may hold tensors alone.
    becoming(tiny, converted(), trap)
    refused(lambda: fetch("tiny"), "torch cannot rewrite weights.bin", "jaxsink[parity]")
    assert not (tmp_path / "sprung").exists()
    assert kept() == []
    pickle.loads(trap)
    assert (tmp_path / "sprung").exists()


def test_what_becomes_of_it_is_pinned_as_well(tiny):
    becoming(tiny, converted(save({"a": TENSORS["a"]})), pickled())
    refused(lambda: fetch("tiny"), "jaxsink-tiny==1.0", "became a model.safetensors", "in another way")
    assert kept() == []


def test_the_working_folder_holds_no_torch(tiny, tmp_path, monkeypatch):
    becoming(tiny, converted(), pickled())
    (tmp_path / "torch.py").write_text("raise SystemExit('the wrong torch')")
    monkeypatch.chdir(tmp_path)
    assert fetch("tiny", cache=Path("here")).is_file()
