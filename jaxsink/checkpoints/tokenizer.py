"""Text to tokens and back: a tokenizer.json, or one rebuilt from what a GGUF file says."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from jaxsink.checkpoints.json_file import read_json_object
from jaxsink.checkpoints.source import CheckpointError

# How tokenizer.json calls the tokens of BERT where no tokenizer_config.json lies beside it.
_BERT_NAMES = {"cls_token": "[CLS]", "sep_token": "[SEP]"}
# Types of tokens in GGUF.
_CONTROL, _USER_DEFINED = 3, 4
# Byte BPE writes printable bytes as themselves and the others, in order, as the characters from 256 on (the table
# of GPT-2's encoder).
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(256 + n): byte for n, byte in enumerate(byte for byte in range(256) if byte not in _PRINTABLE)
}


GGUF_KIND = ("gpt2", "smollm")


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Text to tokens and back.

    Attributes:
        backend: of the library `tokenizers`.
        bos_id: the token that begins a text, if the model has one (whether `encode` puts it there or not).
        cls_id: BERT's [CLS], if there is one.
        sep_id: BERT's [SEP], if there is one.
        byte_level: whether its tokens are written in the alphabet of byte BPE.
    """

    backend: tokenizers.Tokenizer
    bos_id: int | None
    cls_id: int | None
    sep_id: int | None
    byte_level: bool

    @property
    def vocab_size(self) -> int:
        """V, with added tokens."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, special: bool = True) -> np.ndarray:
        """The tokens of a text; names of special tokens in it, such as <|im_start|>, become those tokens.

        Args:
            text: any text; it is never cut and never padded.
            special: add what the model wants around a text ([CLS] and [SEP], or a token that begins it).

        Returns:
            int32[T].
        """
        return np.array(self.backend.encode(text, add_special_tokens=special).ids, np.int32)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of tokens, special ones included.

        Raises:
            ValueError: a token is not in the vocabulary.
        """
        # The library would leave a token out that it does not know.
        self.tokens(tokens)
        return self.backend.decode([int(token) for token in tokens], skip_special_tokens=False)

    def tokens(self, tokens: Sequence[int] | np.ndarray) -> tuple[str, ...]:
        r"""Each token as text for display; bytes that are no whole character are written like \xe2.

        Raises:
            ValueError: a token is not in the vocabulary.
        """
        words = [self._word(token) for token in tokens]
        return tuple(_readable(word) if self.byte_level else word for word in words)

    def _word(self, token: int) -> str:
        word = self.backend.id_to_token(int(token)) if token >= 0 else None
        if word is None:
            raise ValueError(
                f"tokens must be from 0 to {self.vocab_size - 1}, but {token} came: use tokens of this tokenizer."
            )
        return word


def _readable(word: str) -> str:
    try:
        return bytes(_BYTE_OF[character] for character in word).decode("utf-8", errors="backslashreplace")
    except KeyError:  # an added token, which is written as it is
        return word


def tokenizer_from_json(path: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer of a tokenizer.json; a tokenizer_config.json beside it says which tokens are special.

    Raises:
        CheckpointError: a file cannot be read, or does not describe a tokenizer.
    """
    place = Path(path)
    description = read_json_object(place)
    try:
        backend = tokenizers.Tokenizer.from_str(place.read_text("utf-8"))
    # The library raises plain exceptions.
    except Exception as error:
        raise CheckpointError(
            f"{place} does not describe a tokenizer ({_reason(error)}): download it again."
        ) from error
    # A file may ask for texts of one length, which is for the caller to decide.
    backend.no_truncation()
    backend.no_padding()
    config = place.with_name("tokenizer_config.json")
    names = read_json_object(config) if config.exists() else _BERT_NAMES

    def identifier(role: str) -> int | None:
        name = names.get(role)
        return backend.token_to_id(name["content"] if isinstance(name, dict) else name) if name else None

    byte_level = "ByteLevel" in str(description.get("decoder"))
    return Tokenizer(backend, identifier("bos_token"), identifier("cls_token"), identifier("sep_token"), byte_level)


def gguf_kind(metadata: Mapping[str, Any]) -> tuple[Any, Any]:
    """The kind of tokenizer in the metadata of a GGUF file; `tokenizer_from_gguf` makes that of GGUF_KIND."""
    return metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The byte BPE that the metadata of a GGUF file describe (`tokenizer.ggml.*`), for the splitting of SmolLM.

    Raises:
        CheckpointError: the metadata describe another kind of tokenizer, or are not consistent.

    Source: the keys, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
    """
    if (kind := gguf_kind(metadata)) != GGUF_KIND:
        raise CheckpointError(
            f"the metadata must describe a tokenizer of the kind {GGUF_KIND}, but it is {kind}: "
            "give the tokenizer.json of the model."
        )
    words, merges, kinds, bos = (
        metadata.get(f"tokenizer.ggml.{key}") for key in ("tokens", "merges", "token_type", "bos_token_id")
    )
    if not (isinstance(words, tuple) and isinstance(merges, tuple) and isinstance(kinds, np.ndarray)):
        raise CheckpointError(
            "the metadata must hold the lists tokens, merges and token_type of a tokenizer, but some are missing: "
            "give the tokenizer.json of the model."
        )
    pairs = [(first, second) for first, _, second in (merge.partition(" ") for merge in merges)]
    vocabulary = {word: index for index, word in enumerate(words)}
    if len(vocabulary) != len(words) or len(kinds) != len(words):
        raise CheckpointError(
            "the tokens of the metadata must be distinct and have a type each, but they do not: "
            "download the file again."
        )
    backend = _bpe(vocabulary, pairs, unknown=None)
    # Digits stand alone, so that numbers of any length are split alike.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(
        [
            AddedToken(word, special=bool(of == _CONTROL), normalized=False)
            for word, of in zip(words, kinds, strict=True)
            if of in (_CONTROL, _USER_DEFINED)
        ]
    )
    if bos is not None and not 0 <= bos < len(words):
        raise CheckpointError(f"bos_token_id is {bos}, but there are {len(words)} tokens: download the file again.")
    if metadata.get("tokenizer.ggml.add_bos_token") and bos is not None:
        name = words[bos]
        backend.post_processor = processors.TemplateProcessing(single=f"{name} $A", special_tokens=[(name, bos)])
    return Tokenizer(backend, bos, None, None, byte_level=True)


def tokenizer_of_glassllm(path: str | os.PathLike[str]) -> Tokenizer:
    """The character BPE of the package glassllm, from its en.tokenizer.json.

    Its tokens are four special ones, the characters, and the merges in their order; a space is written ▁, and no
    merge crosses the beginning of a word or a line.

    Raises:
        CheckpointError: the file cannot be read, or does not describe such a tokenizer.
    """
    place = Path(path)
    description = read_json_object(place)
    alphabet, merges = description.get("alphabet"), description.get("merges")
    if not (
        isinstance(alphabet, list)
        and isinstance(merges, list)
        and all(isinstance(letter, str) for letter in alphabet)
        and all(isinstance(pair, list) and [type(part) for part in pair] == [str, str] for pair in merges)
    ):
        raise CheckpointError(f"{place} must hold an alphabet and pairs to merge, but it does not: download it again.")
    words = ["<pad>", "<unk>", "<bos>", "<eos>", *alphabet, *(first + second for first, second in merges)]
    backend = _bpe({word: index for index, word in enumerate(words)}, [(a, b) for a, b in merges], unknown="<unk>")
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"\n|▁*[^▁\n]+|▁+"), "isolated")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return Tokenizer(backend, words.index("<bos>"), None, None, byte_level=False)


def _bpe(vocabulary: dict[str, int], pairs: list[tuple[str, str]], unknown: str | None) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, unk_token=unknown))
    # The library raises plain exceptions.
    except Exception as error:
        raise CheckpointError(
            f"the merges do not fit the tokens ({_reason(error)}): download the file again."
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
