"""Small valid files of each format, and seeded damage to them."""

import re
import resource
import struct
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from jaxsink.checkpoints import CheckpointError, open_gguf, open_npz, open_safetensors

# Integers that a parser is likely to believe or to compute with: signs, widths, powers of two and their neighbours.
NUMBERS = (0, 1, 2, 7, 255, 256, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**60, 2**63 - 1, 2**63, 2**64 - 1)


@dataclass(frozen=True)
class Format:
    """A reader with what writes a file for it.

    `header` are the bytes that describe the others; in an archive all are guarded by checksums.
    """

    write: Callable[[Path], None]
    open: Callable
    header: Callable[[bytes], range]


def write_safetensors(path: Path) -> None:
    draw = np.random.default_rng(0).standard_normal
    tensors = {
        "weight": draw((4, 6)).astype(np.float32),
        "half": draw((3, 5)).astype(ml_dtypes.bfloat16),
        "counts": np.arange(9, dtype=np.int8),
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 4), np.float16),
    }
    save_file(tensors, path, metadata={"format": "np"})


def write_gguf(path: Path) -> None:
    draw = np.random.default_rng(1).standard_normal
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_float32("llama.rope.freq_base", 1e5)
    writer.add_bool("tokenizer.ggml.add_bos_token", False)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "Ġc"])
    writer.add_array("tokenizer.ggml.token_type", [1, 1, 3])
    for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"):
        of = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(kind, gguf.quants.quantize(draw((3, 64)).astype(np.float32), of), raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_type(value: object) -> tuple:
    """The type of a value of metadata, and of the elements of a list."""
    if isinstance(value, list):
        return gguf.GGUFValueType.ARRAY, gguf_type(value[0])[0]
    kinds = {bool: "BOOL", int: "INT32", float: "FLOAT32", str: "STRING"}
    return (gguf.GGUFValueType[kinds[type(value)]],)


def npz_arrays() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(2).standard_normal
    return {
        "weight": draw((4, 6)).astype(np.float32),
        "columns": np.asfortranarray(draw((5, 3))),
        "big_endian": draw((2, 3)).astype(">f4"),
        "half": draw(7).astype(np.float16),
        "scalar": np.array(2.5),
        "config": np.array('{"n_heads": 4}'),
    }


def write_npz(path: Path) -> None:
    np.savez(path, **npz_arrays())


def write_deflated_npz(path: Path) -> None:
    np.savez_compressed(path, **npz_arrays(), zeros=np.zeros(10_000))


class trusting_npz:
    """A reader without any defence: NumPy's own."""

    def __init__(self, path: Path) -> None:
        self.file = np.load(path)
        self.names = lambda: self.file.files
        self.read = self.file.__getitem__
        self.shape = lambda name: self.read(name).shape
        self.dtype = lambda name: self.read(name).dtype

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.file.close()


FORMATS = {
    "safetensors": Format(write_safetensors, open_safetensors, lambda c: range(8 + int.from_bytes(c[:8], "little"))),
    "gguf": Format(write_gguf, open_gguf, lambda c: range(len(c) - (768 + 384 + 384 + 224 + 128 + 128))),
    # The tables of an archive are all over it: before every member, and at the end.
    "npz": Format(write_npz, open_npz, lambda c: range(len(c))),
    "deflated npz": Format(write_deflated_npz, open_npz, lambda c: range(len(c))),
}


def damaged(content: bytes, header: range, rng: np.random.Generator) -> bytes:
    """One of six kinds of damage: flips, a cut, more bytes, an integer, a decimal number, a lost or doubled piece."""
    out = bytearray(content)
    match rng.integers(6):
        case 0:
            for _ in range(rng.integers(1, 5)):
                anywhere = range(len(out)) if rng.random() < 0.3 else header
                out[rng.choice(anywhere)] ^= 1 << rng.integers(8)
        case 1:
            del out[rng.integers(len(out)) :]
        case 2:
            out += rng.bytes(rng.integers(1, 100))
        case 3:
            width = int(rng.choice([1, 2, 4, 8]))
            # Half of the time where the lengths of the whole file stand.
            at = rng.choice([0, 4, 8, 16]) if rng.random() < 0.3 else rng.choice(header)
            at = min(int(at), len(out) - width)
            old = int.from_bytes(out[at : at + width], "little")
            new = old + int(rng.integers(-9, 10)) if rng.random() < 0.5 else int(rng.choice(np.array(NUMBERS, object)))
            out[at : at + width] = (new % 256**width).to_bytes(width, "little")
        case 4:
            number = str(rng.choice(np.array(NUMBERS, object)) - int(rng.integers(2))).encode()
            found = list(re.finditer(rb"-?\d+", bytes(out[: header.stop])))
            spot = found[rng.integers(len(found))]
            out[spot.start() : spot.end()] = number
            if out[8:9] == b"{":
                out[:8] = struct.pack("<Q", header.stop - 8 + len(number) - len(spot.group()))
        case 5:
            first = int(rng.choice(header))
            piece = out[first : first + int(rng.integers(1, 40))]
            out[first : first + len(piece) * int(rng.integers(2))] = piece * int(rng.integers(2))
    return bytes(out)


def read_all(form: Format, path: Path) -> dict[str, np.ndarray]:
    with form.open(path) as source:
        tensors = {name: source.read(name) for name in source.names()}
        for name, tensor in tensors.items():
            assert (tensor.shape, tensor.dtype) == (source.shape(name), source.dtype(name))
    return tensors


def survey(form: Format, folder: Path, count: int, seed: int) -> dict[str, int]:
    """How many damaged files were refused, and how many were read; any other outcome is an exception.

    A tensor that is read under its own name, shape and type must hold its own bytes, unless bytes behind the header
    were changed: those are nobody's to notice.
    """
    path = folder / "file"
    form.write(folder / "valid.npz")  # NumPy appends the suffix if it is missing
    content = (folder / "valid.npz").read_bytes()
    original = read_all(form, folder / "valid.npz")
    header = form.header(content)
    outcomes = {"refused": 0, "read": 0}
    messages: set[str] = set()
    for child in np.random.SeedSequence(seed).spawn(count):
        changed = damaged(content, header, np.random.default_rng(child))
        path.write_bytes(changed)
        try:
            tensors = read_all(form, path)
        except CheckpointError as error:
            outcomes["refused"] += 1
            messages.add(str(error))
            continue
        outcomes["read"] += 1
        same_length = len(content) == len(changed)
        flips = sum(content[at] != changed[at] for at in range(header.stop, len(content))) if same_length else 0
        wrong = [
            name
            for name, tensor in tensors.items()
            if name in original
            and (tensor.shape, tensor.dtype) == (original[name].shape, original[name].dtype)
            and tensor.tobytes() != original[name].tobytes()
        ]
        assert len(wrong) <= flips, (wrong, child)
    assert all(message.endswith(".") and "\n" not in message for message in messages), messages
    return outcomes


def main(name: str, count: str, seed: str) -> None:
    """Survey in a process that may have 64 MiB more than it has, whoever allocates them."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
    with tempfile.TemporaryDirectory() as folder:
        print(name, survey(FORMATS[name], Path(folder), int(count), int(seed)))


if __name__ == "__main__":
    main(*sys.argv[1:])
