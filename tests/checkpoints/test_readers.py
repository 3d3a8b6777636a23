"""Readers of safetensors, GGUF and npz: the right numbers, one tensor at a time, and what they refuse."""

import json
import os
import pickle
import struct
import tracemalloc
import zipfile

import gguf
import ml_dtypes
import numpy as np
import pytest
from beside import load
from safetensors.numpy import save, save_file

from jaxsink.checkpoints import (
    TensorSource,
    open_gguf,
    open_npz,
    open_safetensors,
    read_json_object,
)

files = load(__file__, "small_files")
refused = load(__file__, "refusals").refused
EIGHT = np.arange(8, dtype=np.float32)


# Right numbers ---------------------------------------------------------------------------------------------------
def assert_holds(source, expected):
    assert isinstance(source, TensorSource)
    assert source.names() == tuple(sorted(expected))
    for name, array in expected.items():
        read = source.read(name)
        assert source.shape(name) == read.shape == array.shape
        assert source.dtype(name) == read.dtype == array.dtype.newbyteorder("=")
        assert read.flags.c_contiguous
        np.testing.assert_array_equal(read.astype(np.float64), array.astype(np.float64), strict=True)


def test_safetensors_are_what_was_written(tmp_path):
    kinds = [f"{sign}{width}" for sign in "iu" for width in (1, 2, 4, 8)] + ["f2", "f4", "f8", "?", ml_dtypes.bfloat16]
    draw = np.random.default_rng(0).integers(0, 2, (len(kinds), 3, 4))
    arrays = {f"of {np.dtype(kind)}": values.astype(kind) for kind, values in zip(kinds, draw, strict=True)}
    arrays |= {"scalar": np.array(2.5), "empty": np.zeros((0, 4), np.float32)}
    save_file(arrays, tmp_path / "any.safetensors", metadata={"format": "np"})
    with open_safetensors(tmp_path / "any.safetensors") as source:
        assert_holds(source, arrays)
        assert source.metadata == {"format": "np"}


@pytest.mark.parametrize("length", [640, 896, 1152, 1408])
def test_safetensors_that_begin_like_a_pickle_are_none(tmp_path, length):
    # The length of the header comes first, and 640 = 0x0280 are the first bytes of a pickle of protocol 2.
    content = b""
    padding = 0
    while content[:8] != struct.pack("<Q", length):
        content = save({"w": EIGHT}, metadata={"padding": "x" * padding})
        padding += 1
    (tmp_path / "model.safetensors").write_bytes(content)
    assert content[0] == 0x80
    with open_safetensors(tmp_path) as source:
        assert_holds(source, {"w": EIGHT})


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
def test_npz_is_what_was_written(tmp_path, writer):
    arrays = files.npz_arrays()
    config = arrays.pop("config")
    arrays |= {"integers": np.arange(-3, 3, dtype="<i2"), "empty": np.zeros((0, 3)), "flags": np.array([True, False])}
    writer(tmp_path / "any.npz", config=config, **arrays)
    with open_npz(tmp_path / "any.npz") as source:
        assert_holds(source, arrays)
        assert source.metadata == {"config": str(config)}


def blocks_by_hand(kind, raw):
    """float64 values of the blocks of 32 of a quantised type, by the definition of the format.

    Source: the structures block_q8_0, block_q4_0 and block_q4_1 of ggml.
    """
    size = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20}[kind]
    values = []
    for start in range(0, len(raw), size):
        block = raw[start : start + size]
        (scale,) = struct.unpack("<e", block[:2])
        if kind == "Q8_0":
            values += [scale * number for number in struct.unpack("<32b", block[2:])]
            continue
        least = struct.unpack("<e", block[2:4])[0] if kind == "Q4_1" else -8 * scale
        packed = block[-16:]
        values += [scale * (byte & 15) + least for byte in packed] + [scale * (byte >> 4) + least for byte in packed]
    return np.array(values)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
@pytest.mark.parametrize("shape", [(64,), (3, 32), (2, 5, 64), (700, 256)])
def test_gguf_dequantises_by_the_definition(tmp_path, kind, shape):
    of = gguf.GGMLQuantizationType[kind]
    per_block, block_bytes = gguf.GGML_QUANT_SIZES[of]
    draw = np.random.default_rng(len(shape))
    raw = draw.integers(0, 256, (*shape[:-1], shape[-1] // per_block * block_bytes), np.uint8)
    # Scales that are ordinary numbers: the top bits of their exponents are cleared.
    blocks = raw.reshape(-1, block_bytes)
    blocks[:, 1] &= 0b10111111
    blocks[:, 3] &= 0b10111111 if kind == "Q4_1" else 0xFF
    write_gguf(tmp_path / "any.gguf", {"first": (EIGHT, None), "w": (raw, of), "last": (EIGHT, None)})
    with open_gguf(tmp_path / "any.gguf") as source:
        assert source.shape("w") == shape
        assert source.dtype("w") == np.float32
        found = source.read("w")
        assert (found.shape, found.dtype) == (shape, np.float32)
        # One product and one sum in float32, of numbers below 2 * 255.
        np.testing.assert_allclose(found.ravel(), blocks_by_hand(kind, raw.tobytes()), rtol=2**-22, atol=2**-14)
        np.testing.assert_array_equal(source.read("last"), EIGHT)


def write_gguf(path, tensors=None, **metadata):
    """A file by the package's own writer; tensors are pairs of an array and its type, None for what it is."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        writer.add_key_value(key, value, *files.gguf_type(value))
    for name, (array, kind) in (tensors or {"w": (EIGHT, None)}).items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_of_plain_numbers_and_metadata(tmp_path):
    bf16 = np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16)
    tensors = {
        "f32": (np.arange(24, dtype=np.float32).reshape(2, 3, 4), None),
        "f16": (EIGHT.astype(np.float16), None),
        "bf16": (bf16.view(np.uint8).reshape(2, 6), gguf.GGMLQuantizationType.BF16),
    }
    metadata = {"a": 7, "b": 0.5, "c": True, "d": "Grüße", "e": [3, -1, 2], "f": ["x", "", "ŋ"], "g": [0.25, 4.0]}
    write_gguf(tmp_path / "any.gguf", tensors, **metadata)
    with open_gguf(tmp_path / "any.gguf") as source:
        expected = {name: array for name, (array, _) in tensors.items()} | {"bf16": bf16}
        assert_holds(source, expected)
        assert source.metadata["general.architecture"] == "llama"
        for key, value in metadata.items():
            found = source.metadata[key]
            assert type(found) is (type(value) if type(value) is not list else type(found))
            assert list(found) == value if isinstance(value, list) else found == value


# One tensor at a time --------------------------------------------------------------------------------------------
def write_large(name, folder):
    """A file with two tensors of 4 MiB, and that size."""
    array = np.random.default_rng(0).integers(0, 50, (1024, 1024)).astype(np.float32)
    path = folder / "large"
    if name == "safetensors":
        save_file({"a": array, "b": array}, path)
    elif name == "gguf":
        of = gguf.GGMLQuantizationType.Q8_0
        write_gguf(path, {"a": (array, None), "b": (gguf.quants.quantize(array, of), of)})
    else:
        writer = np.savez_compressed if name == "deflated npz" else np.savez
        path = folder / "large.npz"
        writer(path, a=array, b=np.asfortranarray(array))
    return path, array.nbytes


@pytest.mark.parametrize("name", files.FORMATS)
def test_only_the_tensor_asked_for_comes_into_memory(tmp_path, name):
    path, size = write_large(name, tmp_path)
    tracemalloc.start()
    try:
        with files.FORMATS[name].open(path) as source:
            opened, _ = tracemalloc.get_traced_memory()
            # Reading none of them costs nothing of their size.
            assert opened < 2**20
            for tensor in source.names():
                tracemalloc.reset_peak()
                read = source.read(tensor)
                _, peak = tracemalloc.get_traced_memory()
                # The tensor itself, and at most as much again to bring it into order.
                assert peak - opened < 2.1 * size
                del read
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", files.FORMATS)
def test_what_no_tensor_can_be_read_from(tmp_path, name):
    form = files.FORMATS[name]
    path, _ = write_large(name, tmp_path)
    refused(lambda: form.open(tmp_path / "none"), "none", "No such file")
    with form.open(path) as source:
        refused(lambda: source.read("c"), str(path), "'c'")
        refused(lambda: source.shape("c"), "'c'")
        refused(lambda: source.dtype("c"), "'c'")
        # A file that becomes shorter while it is open: a mapped one would kill the process.
        os.truncate(path, 2**18)
        refused(lambda: source.read("b"), str(path), "'b'")
    refused(lambda: source.read("a"), str(path), "'a'")


# Shards ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def sharded(tmp_path):
    """A folder of two shards with its index, and how to write the index anew."""
    save_file({"a": EIGHT, "b": EIGHT + 1}, tmp_path / "model-1.safetensors")
    save_file({"c": EIGHT + 2}, tmp_path / "model-2.safetensors")
    good = {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}

    def index(change=None, **entries):
        content = {"metadata": {}, "weight_map": good | entries} if change is None else change
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(content))

    index()
    return tmp_path, index


def test_shards_are_one_source(sharded):
    folder, _ = sharded
    with open_safetensors(folder) as source:
        assert source.where == str(folder)
        assert_holds(source, {"a": EIGHT, "b": EIGHT + 1, "c": EIGHT + 2})


def test_shards_that_do_not_hold_what_the_index_says(sharded):
    folder, index = sharded
    index(d="model-2.safetensors")
    refused(lambda: open_safetensors(folder), "'d'", "no shard")
    index(c="model-1.safetensors")
    refused(lambda: open_safetensors(folder), "'c'")
    index({"weight_map": {"a": "model-1.safetensors"}})
    refused(lambda: open_safetensors(folder), "'b'", "model-1.safetensors")
    index(d="model-3.safetensors")
    refused(lambda: open_safetensors(folder), "model-3.safetensors")
    index()
    (folder / "model-2.safetensors").write_bytes(b"")
    refused(lambda: open_safetensors(folder), "model-2.safetensors")


@pytest.mark.parametrize(
    "shard", ["../other.safetensors", "/etc/passwd", "x/model-2.safetensors", "..", ".", "", "a\0b", "..\\other", "c:x"]
)
def test_an_index_may_not_point_elsewhere(sharded, shard):
    folder, index = sharded
    save_file({"c": EIGHT}, folder.parent / "other.safetensors")
    index(c=shard)
    refused(lambda: open_safetensors(folder), "plain file name")


@pytest.mark.parametrize("content", [{}, [], {"weight_map": {}}, {"weight_map": ["a"]}, {"weight_map": {"a": 1}}])
def test_an_index_without_a_table(sharded, content):
    folder, index = sharded
    index(content)
    refused(lambda: open_safetensors(folder), "index.json", "download it again")


# What is refused -------------------------------------------------------------------------------------------------
class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "weights.pt", "weights.pth"])
@pytest.mark.parametrize("protocol", [0, 2, 4, "zip"])
def test_a_pickle_is_never_read(tmp_path, monkeypatch, name, protocol):
    monkeypatch.chdir(tmp_path)
    if protocol == "zip":
        with zipfile.ZipFile(name, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Trap()))
    else:
        with open(name, "wb") as file:
            pickle.dump(Trap(), file, protocol)
    words = ["pickle", "weights_only=True"] if protocol or name != "model.safetensors" else ["no whole safetensors"]
    refused(lambda: open_safetensors(tmp_path / name), name, *words)
    refused(lambda: open_safetensors(tmp_path), name, *words)
    for reader in (open_gguf, open_npz):
        refused(lambda reader=reader: reader(tmp_path / name), name)
    assert not (tmp_path / "sprung").exists()


def test_objects_in_npz_are_never_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("any.npz", good=EIGHT, bad=np.array([Trap()], object))
    refused(lambda: open_npz("any.npz"), "'bad'")
    assert not (tmp_path / "sprung").exists()


def test_a_file_of_another_format_names_its_reader(tmp_path):
    write_gguf(tmp_path / "any.gguf")
    np.savez(tmp_path / "any.npz", w=EIGHT)
    refused(lambda: open_safetensors(tmp_path / "any.gguf"), "open_gguf")
    refused(lambda: open_safetensors(tmp_path / "any.npz"), "open_npz")
    refused(lambda: open_safetensors(tmp_path), "model.safetensors")


def test_types_that_are_not_read_name_tensor_and_type(tmp_path):
    save_file({"w": np.ones(4, ml_dtypes.float8_e4m3fn)}, tmp_path / "any.safetensors")
    refused(lambda: open_safetensors(tmp_path / "any.safetensors"), "'w'", "F8_E4M3")
    of = gguf.GGMLQuantizationType.Q6_K
    write_gguf(tmp_path / "any.gguf", {"w": (np.zeros((1, 210), np.uint8), of)})
    refused(lambda: open_gguf(tmp_path / "any.gguf"), "'w'", "Q6_K", "Q8_0")
    np.savez(tmp_path / "any.npz", w=np.array(["a", "b"]))
    refused(lambda: open_npz(tmp_path / "any.npz"), "'w'", "strings")


def test_an_npz_that_lies_about_sizes(tmp_path):
    def written(shape, kind=zipfile.ZIP_STORED):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        with zipfile.ZipFile(tmp_path / "any.npz", "w", kind) as archive:
            archive.writestr("w.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(64))
        return tmp_path / "any.npz"

    with open_npz(written("(4, 4)")) as source:
        assert_holds(source, {"w": np.zeros((4, 4), np.float32)})
    for shape in ("(4, 5)", "(1000000000, 1000000000, 1000000000)", "(-4, -4)", "(4, 4L)", "__import__('os')", "16"):
        refused(lambda shape=shape: open_npz(written(shape)), "'w'")
    refused(lambda: open_npz(written("(4, 4)", zipfile.ZIP_BZIP2)), "'w'", "deflated")
    # A directory that claims more than deflate could hold.
    path = written("(4, 4)", zipfile.ZIP_DEFLATED)
    content = path.read_bytes()
    at = content.index(b"PK\1\2") + 24
    path.write_bytes(content[:at] + struct.pack("<I", 2**31) + content[at + 4 :])
    refused(lambda: open_npz(path), "'w'", "more than the file can hold")


def test_an_empty_tensor_of_an_impossible_shape(tmp_path):
    # No bytes belong to it, so no size gives it away; NumPy still has no such shape.
    header = json.dumps({"w": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "any.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with open_safetensors(tmp_path / "any.safetensors") as source:
        refused(lambda: source.read("w"), "any.safetensors", "'w'")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"{'a': 1}", "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe\xff", "not JSON"),
        (b"[" * 10**5, "not JSON"),
        (b"[1]", "a list"),
        (b'{"a": "' + b"x" * 2**26 + b'"}', "64 MiB"),
        (None, "No such file"),
    ],
    ids=["quotes", "empty", "bytes", "deep", "list", "long", "missing"],
)
def test_a_config_that_is_no_json_object(tmp_path, content, word):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    refused(lambda: read_json_object(path), "config.json", word)
