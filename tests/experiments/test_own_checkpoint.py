"""Claims about pretrained models on a checkpoint of the user's: `jaxsink verify --decoder, --encoder`."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.commands.verify import DECODER, ENCODER, on_checkpoint
from experiments.studies.checkpoint import cost
from jaxsink.checkpoints import find_asset, identify
from theory.checkpoint import FirstToken, Passages, on_model
from theory.claims import all_claims
from theory.heads import HeadZeroing

PRETRAINED = [claim for claim in all_claims().values() if claim.id.startswith(("WV", "LM"))]


def models(spec: Any) -> set[str]:
    """Names of checkpoints anywhere in a description."""
    if isinstance(spec, dict):
        own = {spec["model"]} if isinstance(spec.get("model"), str) else set()
        return own.union(*map(models, spec.values()))
    return set()


@pytest.mark.parametrize(("default", "name"), [(DECODER, "llama"), (ENCODER, "bert")])
def test_a_checkpoint_of_ones_own_stands_wherever_the_default_stood(default: str, name: str, checkpoints: Path) -> None:
    path = str(checkpoints / name)
    moved = on_checkpoint(PRETRAINED, default, path)
    before = [s for c in PRETRAINED for given in c.evidence.values() for s in given.values()]
    after = [s for c in moved for given in c.evidence.values() for s in given.values()]
    assert [c.id for c in moved] == [c.id for c in PRETRAINED]
    changed = 0
    for old, new in zip(before, after, strict=True):
        named = models(old.describe())
        assert models(new.describe()) == {path if model == default else model for model in named}
        changed += default in named
        if default not in named:
            assert new is old
    assert changed > 5
    kinds = {type(new) for old, new in zip(before, after, strict=True) if new != old}
    assert kinds == ({Passages, FirstToken, HeadZeroing} if default == DECODER else {Passages})


def test_evidence_of_other_weights_is_other_evidence(checkpoints: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(checkpoints / "llama", own)
    spec = Passages(str(own), "prose", 2, 24)
    first, work = spec.describe(), cost(spec)
    assert first == spec.describe()
    assert work > 0.0
    weights = own / "model.safetensors"
    kept = bytearray(weights.read_bytes())
    kept[-1] ^= 1
    weights.write_bytes(kept)
    assert spec.describe()["weights"] != first["weights"]
    kept[-1] ^= 1
    weights.write_bytes(kept)
    assert spec.describe() == first
    (own / "tokenizer.json").write_text("{}")  # the same weights read another text
    assert spec.describe() != first


def test_a_file_is_known_by_itself_and_what_describes_it(checkpoints: Path) -> None:
    file, folder = checkpoints / "llama" / "model.safetensors", checkpoints / "llama"
    assert identify(file) == identify(str(file))
    assert identify(file).size == sum(each.stat().st_size for each in folder.iterdir())
    assert identify(DECODER) == (find_asset(DECODER).digest, find_asset(DECODER).size)


def test_only_names_of_models_are_exchanged() -> None:
    spec = HeadZeroing(Passages("glassllm", "prose", 2, 24), 3)
    assert on_model(spec, "glassllm", "minilm-l6") == HeadZeroing(replace(spec.passages, model="minilm-l6"), 3)
    assert on_model(spec, "prose", "code") is spec
    array = np.zeros(3)
    assert on_model(array, "a", "b") is array


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("WV1", "--decoder", "bert"), ["--decoder bert is the other kind", "--encoder"]),
        (("WV6", "--encoder", "llama"), ["--encoder llama is the other kind"]),
        (("WV1", "--decoder", "bare"), ["no tokenizer", "tokenizer.json"]),
        (("WV1", "--decoder", "absent"), ["'absent' is no file, no folder"]),
        (("BB1", "--decoder", "llama"), ["none of these claims is about a pretrained decoder", "WV or LM"]),
    ],
)
def test_mistakes(words: tuple[str, ...], said: list[str], jaxsink: Any, checkpoints: Path) -> None:
    shutil.copytree(checkpoints, jaxsink.folder, dirs_exist_ok=True)
    jaxsink.assert_mistake(jaxsink("verify", *words), *said)
