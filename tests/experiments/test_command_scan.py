"""`jaxsink scan` on small checkpoints: what it writes, what it never overwrites, and mistakes in the request."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import beside
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.commands import scan_report
from experiments.commands.scan_samples import Ends, batches, ends, of_domain
from jaxsink.checkpoints import load
from jaxsink.probing import run, zero_head
from jaxsink.scanning import finalise_scan, init_scan, readings, update_scan

small = beside.load(__file__, "small_checkpoints")
HOSTILE, WORDS, LLAMA, BERT = small.HOSTILE, small.WORDS, small.LLAMA, small.BERT
TEXT = " ".join([*HOSTILE, "a", "b", "a", "c", "e", "d"] * 4)
# float32 sums of at most 30 terms of order one, in another compilation.
REORDERED = {"rtol": 1e-3, "atol": 1e-5}


@pytest.fixture
def scan(jaxsink: Any, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command, in a folder with models and a text, drawing nothing."""
    shutil.copytree(checkpoints, jaxsink.folder, dirs_exist_ok=True)
    Path("text").write_text(TEXT, encoding="utf-8")
    pixels = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x03\0\0\0\x02"
    monkeypatch.setattr(scan_report, "_png", lambda figure: pixels)
    return lambda *words: jaxsink("scan", *words)


def found(folder: str) -> dict[str, Any]:
    return json.loads((Path(folder) / "scan.json").read_text(encoding="utf-8"))


def test_a_decoder_on_a_text(jaxsink: Any, scan: Any) -> None:
    result = scan("llama", "--text", "text", "--samples", "3", "--max-tokens", "20")
    assert jaxsink.code(result) == 0
    data = found("out/scan-llama")
    assert {path.name for path in Path("out/scan-llama").iterdir()} == {"scan.json", "maps.npz", "report.html"}
    # 48 words: the last sample has 8.
    assert (data["schema"], data["model"], data["bos"], data["samples"], data["tokens"]) == (
        1,
        "llama",
        "default",
        3,
        48,
    )
    assert set(data["domains"]) == {"text"}
    assert data["zeroing"] is None
    loaded = load("llama")
    assert loaded.tokenizer is not None
    tokens = loaded.tokenizer.encode(TEXT, special=False)
    state = init_scan()
    for start in (0, 20, 40):
        part = jnp.asarray(tokens[None, start : start + 20])
        state = update_scan(state, readings(loaded.model, loaded.params, part))
    expected = finalise_scan(state)
    assert [layer["sink_position"] for layer in data["layers"]] == expected.sink_position.tolist()
    for layer, entry in enumerate(data["layers"]):
        for name in ("value_ratio", "resid_norm_sink", "resid_norm_median"):
            np.testing.assert_allclose(entry[name], getattr(expected.means, name)[layer], **REORDERED)
        np.testing.assert_allclose(entry["sink_mass_by_head"], expected.means.sink_mass[layer], **REORDERED)
    assert [(head["layer"], head["head"]) for head in data["heads"]] == [(i, n) for i in range(2) for n in range(4)]
    for head in data["heads"]:
        place = head["layer"], head["head"]
        scores = expected.means.head_scores
        np.testing.assert_allclose(head["sink_mass"], expected.means.sink_mass[place], **REORDERED)
        np.testing.assert_allclose(head["entropy"], scores.entropy[place], **REORDERED)
        np.testing.assert_allclose(head["dormancy"]["output_norm"], scores.output_norm[place], **REORDERED)
        assert head["zeroing_cost_by_domain"] is None
    with np.load("out/scan-llama/maps.npz", allow_pickle=False) as maps:
        assert maps["tokens"].tolist() == list(loaded.tokenizer.tokens(tokens[:20]))
        np.testing.assert_array_equal(maps["token_ids"], tokens[:20])
        assert maps["maps"].shape == (2, 4, 20, 20)
        assert maps["maps"].dtype == np.float16
        _, captured = run(loaded.model, loaded.params, jnp.asarray(tokens[None, :20]), capture=["blocks.1.pattern"])
        # float16 has 11 binary digits.
        np.testing.assert_allclose(maps["maps"][1], captured["blocks.1.pattern"][0], rtol=2e-3, atol=1e-5)
        np.testing.assert_allclose(maps["received"], expected.means.received, **REORDERED)


def test_tokens_are_text_in_the_report_and_the_page_needs_nothing_else(
    jaxsink: Any, scan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(jaxsink.folder)
    monkeypatch.setattr("sys.argv", ["jaxsink", "scan", "llama", "--out", "<b>"])
    result = scan("llama", "--text", "text", "--samples", "1", "--max-tokens", "12", "--out", "<b>")
    assert jaxsink.code(result) == 0
    page = Path("<b>/report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<img/src" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&amp;lt;" in page
    assert "{{7*7}}" in page
    assert "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/png;base64,") == 6
    assert "<code>jaxsink scan llama --out &#39;&lt;b&gt;&#39;</code>" in page.split("Regenerate with", 1)[1]


def test_costs_of_heads_of_a_decoder(jaxsink: Any, scan: Any) -> None:
    result = scan("llama", "--domains", "random", "--samples", "2", "--max-tokens", "9", "--zero-heads")
    assert jaxsink.code(result) == 0
    assert "zeroing 8 heads on 1 domain takes about " in result.stdout
    data = found("out/scan-llama")
    assert data["zeroing"]["measure"] == "loss"
    loaded = load("llama")
    assert loaded.tokenizer is not None
    tokens = np.stack(of_domain("random", loaded.tokenizer, Ends(), len(WORDS), 9, 2))
    assert tokens.min() >= 3  # special tokens are no text

    @jax.jit
    def logits_of(edits: Any) -> jax.Array:
        return run(loaded.model, loaded.params, jnp.asarray(tokens), edits=edits)[0]

    def loss(edits: Any) -> float:
        x = np.asarray(logits_of(edits), np.float64)[:, :-1]
        log_probs = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
        return float(-np.mean([log_probs[b, t, tokens[b, t + 1]] for b in range(2) for t in range(8)]))

    for layer, head in ((0, 1), (1, 3)):
        cost = data["heads"][4 * layer + head]["zeroing_cost_by_domain"]["random"]
        expected = loss(zero_head(loaded.model, layer, head)) - loss({})
        assert abs(expected) > 1e-3
        np.testing.assert_allclose(cost, expected, **REORDERED)


def test_an_encoder_has_no_loss(jaxsink: Any, scan: Any) -> None:
    result = scan("bert", "--text", "text", "--samples", "2", "--max-tokens", "7", "--zero-heads")
    assert jaxsink.code(result) == 0
    data = found("out/scan-bert")
    assert data["ends"] == {"before": [0], "after": [1]}
    assert data["zeroing"]["measure"] == "change"
    assert "encoder has no loss" in data["zeroing"]["words"]
    assert data["zeroing"]["words"] in " ".join(Path("out/scan-bert/report.html").read_text("utf-8").split())
    loaded = load("bert")
    assert loaded.tokenizer is not None
    text = loaded.tokenizer.encode(TEXT, special=False)
    tokens = jnp.asarray([[0, *text[:5], 1], [0, *text[5:10], 1]], jnp.int32)
    before, after = (
        np.asarray(run(loaded.model, loaded.params, tokens, edits=edits)[0], np.float64)
        for edits in ({}, zero_head(loaded.model, 1, 0))
    )
    expected = np.mean(np.linalg.norm(after - before, axis=-1) / np.linalg.norm(before, axis=-1))
    np.testing.assert_allclose(data["heads"][2]["zeroing_cost_by_domain"]["text"], expected, **REORDERED)


def test_a_model_without_a_tokenizer(jaxsink: Any, scan: Any) -> None:
    for words in (["--text", "text"], ["--domains", "code"]):
        jaxsink.assert_mistake(scan("bare", *words), "needs a tokenizer", "--domains random")
    assert not Path("out").exists()
    assert jaxsink.code(scan("bare", "--samples", "1", "--max-tokens", "6", "--out", "here")) == 0
    assert set(found("here")["domains"]) == {"random"}
    with np.load("here/maps.npz", allow_pickle=False) as maps:
        assert maps["tokens"].tolist() == [str(token) for token in maps["token_ids"]]


def test_what_a_sample_begins_with(scan: Any) -> None:
    tokenizer = load("bert").tokenizer
    assert ends(tokenizer, "default", 14) == Ends((0,), (1,))
    assert ends(load("llama").tokenizer, "default", 14) == Ends()
    assert ends(tokenizer, "none", 14) == ends(None, "default", 14) == Ends()
    assert ends(tokenizer, "13", 14) == Ends((13,))
    assert Ends((0,), (1,)).around([5, 6]).tolist() == [0, 5, 6, 1]
    for bos in ("14", "-1", "cls"):
        with pytest.raises(ValueError, match=r"--bos must be default, none, or a token from 0 to 13"):
            ends(tokenizer, bos, 14)


def test_batches_have_one_shape_and_hold_every_sample() -> None:
    samples = [np.arange(1, length + 1, dtype=np.int32) for length in (3, 5, 2, 4, 5, 1)]
    parts = batches(samples, 4)
    assert {tokens.shape for tokens, _ in parts} == {(3, 5)}
    rows = [row[real].tolist() for tokens, reals in parts for row, real in zip(tokens, reals, strict=True)]
    assert rows == [sample.tolist() for sample in samples]
    assert [tokens.shape for tokens, _ in batches(samples[:5], 4)] == [(1, 5)] * 5


@pytest.mark.parametrize("out", ["file", "file/out", "mine", "verified"])
def test_nothing_but_a_scan_is_overwritten(jaxsink: Any, scan: Any, out: str) -> None:
    Path("file").write_text("mine")
    for folder, name, content in (("mine", "thesis.txt", "mine"), ("verified", "scan.json", '{"schema": 1}')):
        Path(folder).mkdir()
        (Path(folder) / name).write_text(content)
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    jaxsink.assert_mistake(scan("bare", "--samples", "1", "--max-tokens", "6", "--out", out), f"--out {out} ")
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_a_scan_is_overwritten(jaxsink: Any, scan: Any) -> None:
    for samples in (1, 2):
        words = ("--samples", str(samples), "--max-tokens", "6", "--out", "here")
        assert jaxsink.code(scan("bare", *words)) == 0
        assert found("here")["samples"] == samples
    assert len(list(Path("here").iterdir())) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["llama", "--domains", "prosa"], ["--domains knows prose, code, docs, random, repeated", "'prosa'"]),
        (["llama", "--domains", "random", "--text", "text"], ["--text and --domains"]),
        (["llama", "--text", "absent"], ["--text absent cannot be read", "No such file"]),
        (["llama", "--text", "empty"], ["--text empty is empty"]),
        (["llama", "--text", "latin"], ["--text latin cannot be read as UTF-8"]),
        (["llama", "--domains", "random", "--bos", "99"], ["--bos must be", "'99'"]),
        (["bert", "--text", "text", "--max-tokens", "2"], ["--max-tokens 2 leaves no room"]),
        (["bert", "--text", "text", "--max-tokens", "17"], ["--max-tokens 17", "at most 16"]),
        (["nothing"], ["'nothing' is no file"]),
    ],
)
def test_mistakes(jaxsink: Any, scan: Any, words: list[str], said: list[str]) -> None:
    Path("empty").touch()
    Path("latin").write_bytes(b"caf\xe9")
    jaxsink.assert_mistake(scan(*words), *said)
    assert not Path("out").exists()
