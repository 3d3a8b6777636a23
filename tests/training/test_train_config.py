"""The identity of a run: everything it depends on is in its description, and nothing else."""

import dataclasses
import json

import pytest

from jaxsink.attention import VARIANTS, ReLU, SoftmaxN
from jaxsink.models import TransformerConfig
from jaxsink.training import (
    SGD,
    Adam,
    AdamW,
    DirichletChain,
    EqualValues,
    HoldNorm,
    HoldValue,
    Muon,
    ShakespeareChain,
    SignSGD,
    TaskConfig,
    TextChain,
    TrainConfig,
    UniformAttention,
    digest,
)
from jaxsink.training.runs import build

SMALL = TrainConfig(task=TaskConfig(DirichletChain(5, 1.0, 0)))

# Another value for every field.
CHANGED = {
    TrainConfig: {
        "task": TaskConfig(DirichletChain(5, 1.0, 1)),
        "model": TransformerConfig(d_model=128),
        "optimiser": Adam(),
        "length": 128,
        "batch": 256,
        "steps": 5000,
        "loss_on": "triggers",
        "chunk_steps": 20,
        "probe_batch": 128,
        "interventions": (HoldValue("blocks.0.v"),),
    },
    TaskConfig: {
        "chain": ShakespeareChain(),
        "n_triggers": 2,
        "starts": 2,
        "copy_probability": 0.5,
        "rule": "backward",
    },
    TransformerConfig: {
        "n_layers": 2,
        "n_heads": 2,
        "d_model": 128,
        "d_mlp": 7,
        "attention": ReLU(),
        "positions": "rope",
        "registers": 1,
        "layers_without_attention": (0,),
        "layers_without_mlp": (0,),
        "mlp": "linear",
        "normalise": False,
        "one_hot": True,
        "dtype": "float64",
        "compute_dtype": "bfloat16",
    },
    HoldValue: {"site": "blocks.0.k", "position": 1, "from_step": 7},
    HoldNorm: {"site": "blocks.0.k", "position": 1, "from_step": 7},
    UniformAttention: {"layer": 1, "key": 1, "from_step": 7},
    EqualValues: {"layer": 1, "norm": 2.0, "of": "W_O v", "from_step": 7},
    DirichletChain: {"size": 6, "concentration": 2.0, "seed": 3},
    AdamW: {"rate": 1.0, "b1": 0.5, "b2": 0.5, "eps": 1.0, "weight_decay": 1.0},
    Adam: {"rate": 1.0, "b1": 0.5, "b2": 0.5, "eps": 1.0},
    SGD: {"rate": 1.0, "momentum": 0.5, "weight_decay": 1.0},
    SignSGD: {"rate": 1.0, "weight_decay": 1.0},
    Muon: {"rate": 1.0, "momentum": 0.5, "weight_decay": 1.0, "adam_rate": 1.0},
}


def key(config):
    return digest(config.describe())


def within(part):
    """A run that holds this part."""
    match part:
        case TrainConfig():
            return part
        case TaskConfig():
            return dataclasses.replace(SMALL, task=part)
        case TransformerConfig():
            return dataclasses.replace(SMALL, model=part)
        case DirichletChain():
            return dataclasses.replace(SMALL, task=TaskConfig(part))
        case HoldValue() | HoldNorm() | UniformAttention() | EqualValues():
            task = dataclasses.replace(SMALL.task, starts=2)
            return dataclasses.replace(SMALL, task=task, interventions=(part,))
        case _:
            return dataclasses.replace(SMALL, optimiser=part)


HELD = {hold: hold("blocks.0.v") for hold in (HoldValue, HoldNorm)}
BASES = {TrainConfig: SMALL, TaskConfig: SMALL.task, DirichletChain: SMALL.task.chain, **HELD}


@pytest.mark.parametrize("part", CHANGED, ids=lambda part: part.__name__)
def test_every_field_counts(part):
    base, values = BASES.get(part) or part(), CHANGED[part]
    assert set(values) == {field.name for field in dataclasses.fields(part)}
    keys = {name: key(within(dataclasses.replace(base, **{name: value}))) for name, value in values.items()}
    keys["unchanged"] = key(within(base))
    assert len(set(keys.values())) == len(keys), keys


def test_parts_of_one_type_do_not_stand_for_another():
    assert key(within(HoldValue("blocks.0.v"))) != key(within(HoldNorm("blocks.0.v")))
    optimisers = [AdamW(), Adam(), SGD(), SignSGD(), Muon()]
    assert len({key(within(optimiser)) for optimiser in optimisers}) == len(optimisers)
    # Equal fields, another type.
    assert key(within(AdamW(weight_decay=0.0))) != key(within(Adam()))
    assert key(within(TransformerConfig(attention=SoftmaxN(n=1.0)))) != key(
        within(TransformerConfig(attention=SoftmaxN(n=2.0)))
    )


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_attention_variant_can_be_described(name):
    config = within(TransformerConfig(attention=VARIANTS[name].variant))
    assert json.loads(json.dumps(config.describe(), allow_nan=False)) == config.describe()


def test_equal_runs_have_equal_descriptions():
    assert TrainConfig().describe() == TrainConfig(optimiser=AdamW(), model=TransformerConfig()).describe()
    assert key(SMALL) == key(TrainConfig(task=TaskConfig(DirichletChain(5, 1.0, 0))))


def test_the_key_of_the_paper_s_run_is_pinned():
    """Stored evidence is found by this key. It may only change together with the version of its producer
    (experiments/studies/bigram_backcopy.py): whatever else moves it loses all runs that were ever made."""
    assert key(TrainConfig()) == "51f7ee51d8e2eb5f"


def test_the_description_does_not_depend_on_the_order_of_its_entries():
    described = TrainConfig().describe()
    assert digest(dict(reversed(described.items()))) == digest(described)


def test_a_number_that_json_has_not_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        digest({"rate": float("nan")})


def test_a_text_counts_by_what_it_says(tmp_path):
    for name, text in {"a": "abracadabra", "b": "abracadabra", "c": "abracadabrb"}.items():
        (tmp_path / name).write_text(text)

    def of(name):
        return TrainConfig(task=TaskConfig(TextChain(tmp_path / name), n_triggers=1)).describe()

    assert of("a") == of("b") != of("c")
    assert str(tmp_path) not in json.dumps(of("a"))


def test_an_ensemble_is_no_other_run():
    """Grouping seeds is how a run is made, not which: `build` alone knows of it."""
    config = dataclasses.replace(SMALL, model=TransformerConfig(d_model=8), length=8)
    _, model, task = build(config, ensemble=True)
    assert (model.max_length, model.vocab_size) == (8, task.vocab_size) == (8, 6)
