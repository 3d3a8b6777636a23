"""GGUF headers by hand: what a hostile or damaged file may say, refused before it costs anything."""

import struct
import tracemalloc

import numpy as np
import pytest
from beside import load

from jaxsink.checkpoints import open_gguf

refused = load(__file__, "refusals").refused


def gguf_bytes(version=3, tensors=0, fields=0, rest=b"", magic=b"GGUF"):
    return magic + struct.pack("<IQQ", version, tensors, fields) + rest


def text(word):
    return struct.pack("<Q", len(word)) + word.encode()


def entry(name="w", shape=(8,), kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def filled(header, size=32):
    """The header, what aligns it, and as many bytes of tensors."""
    return header + bytes(-len(header) % 32 + size)


MANY = 2**60
BAD_GGUF = {
    "another magic": (gguf_bytes(magic=b"GGML"), "no GGUF file"),
    "the old version": (gguf_bytes(version=1), "version 1"),
    "big-endian": (gguf_bytes(version=3 << 24), "big-endian"),
    "many tensors": (gguf_bytes(tensors=MANY), "number of tensors"),
    "many fields": (gguf_bytes(fields=MANY), "number of metadata"),
    "a long key": (gguf_bytes(fields=1, rest=struct.pack("<Q", MANY) + bytes(99)), "length of the name"),
    "a key of other bytes": (gguf_bytes(fields=1, rest=struct.pack("<Q", 2) + b"\xff\xfe" + bytes(99)), "UTF-8"),
    "a long text": (gguf_bytes(fields=1, rest=text("key") + struct.pack("<IQ", 8, MANY)), "key"),
    "a long list": (gguf_bytes(fields=1, rest=text("key") + struct.pack("<IIQ", 9, 4, MANY)), "key"),
    "a long list of texts": (gguf_bytes(fields=1, rest=text("key") + struct.pack("<IIQ", 9, 8, MANY)), "key"),
    "a list of lists": (gguf_bytes(fields=1, rest=text("key") + struct.pack("<IIQ", 9, 9, 0)), "key"),
    "an unknown type": (gguf_bytes(fields=1, rest=text("key") + struct.pack("<IQ", 13, 0)), "key"),
    "a third truth": (gguf_bytes(fields=1, rest=text("key") + struct.pack("<IB", 7, 2)), "key"),
    "a key twice": (gguf_bytes(fields=2, rest=(text("key") + struct.pack("<IB", 0, 1)) * 2), "'key'"),
    "an odd alignment": (
        gguf_bytes(fields=1, rest=text("general.alignment") + struct.pack("<II", 4, 24)),
        "general.alignment",
    ),
    "a tensor twice": (filled(gguf_bytes(tensors=2, rest=entry() + entry(offset=32)), 64), "comes twice"),
    "many axes": (filled(gguf_bytes(tensors=1, rest=entry(shape=(1,) * 5))), "5 axes"),
    "more axes than bytes": (filled(gguf_bytes(tensors=1, rest=text("w") + struct.pack("<I", 2**31))), "axes"),
    "a large shape": (filled(gguf_bytes(tensors=1, rest=entry(shape=(MANY, MANY)))), "beyond the file"),
    "a shape that wraps around": (filled(gguf_bytes(tensors=1, rest=entry(shape=(2**32, 2**32)))), "beyond the file"),
    "no whole blocks": (filled(gguf_bytes(tensors=1, rest=entry(kind=8))), "blocks of Q8_0"),
    "an unknown type of tensor": (filled(gguf_bytes(tensors=1, rest=entry(kind=99))), "type 99"),
    "an offset beyond the end": (filled(gguf_bytes(tensors=1, rest=entry(offset=MANY))), "'w'"),
    "an offset between blocks": (filled(gguf_bytes(tensors=1, rest=entry(offset=4))), "'w'"),
    "tensors on each other": (filled(gguf_bytes(tensors=2, rest=entry() + entry("v"))), "'v'"),
    "no tensor data": (gguf_bytes(tensors=1, rest=entry()), "beyond the file"),
    "bytes left over": (filled(gguf_bytes(tensors=1, rest=entry())) + bytes(32), "its header describes"),
    "nothing": (b"", "no GGUF file"),
    "a start alone": (b"GGUF\3\0", "the version"),
}


def test_gguf_by_hand_is_read(tmp_path):
    (tmp_path / "any.gguf").write_bytes(filled(gguf_bytes(tensors=1, rest=entry(shape=(4, 2)))))
    with open_gguf(tmp_path / "any.gguf") as source:
        assert source.names() == ("w",)
        np.testing.assert_array_equal(source.read("w"), np.zeros((2, 4), np.float32), strict=True)


@pytest.mark.parametrize("what", BAD_GGUF)
def test_gguf_that_is_refused(tmp_path, what):
    content, word = BAD_GGUF[what]
    (tmp_path / "any.gguf").write_bytes(content)
    tracemalloc.start()
    try:
        refused(lambda: open_gguf(tmp_path / "any.gguf"), "any.gguf", word)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_an_empty_tensor_of_an_impossible_shape(tmp_path):
    # No bytes belong to it, so no size gives it away; NumPy still has no such shape.
    (tmp_path / "any.gguf").write_bytes(filled(gguf_bytes(tensors=1, rest=entry(shape=(2**62, 0))), 0))
    with open_gguf(tmp_path / "any.gguf") as source:
        refused(lambda: source.read("w"), "any.gguf", "'w'")
