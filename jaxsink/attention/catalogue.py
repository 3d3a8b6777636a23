"""All variants by name, with usable defaults: each row map of `CATALOGUE`, wrapped row maps, and operators."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import jax

from jaxsink.attention.composite import Wrapped, Wrapper
from jaxsink.attention.driver import Variant
from jaxsink.attention.operators import Differential, ThresholdDifferential
from jaxsink.attention.row_map import AttentionDims, RowMap
from jaxsink.attention.variants import (
    CATALOGUE,
    ClampedLinear,
    NormalisedLinear,
    ReLUOverLength,
    Softmax,
    ThresholdRectified,
)
from jaxsink.attention.wrappers import (
    CosineQK,
    ElementwiseGate,
    EluFeatures,
    ForgetGate,
    HeadRMSNorm,
    HeadwiseGate,
    InputGate,
    KeyBias,
    KeyValueBias,
    MLPFeatures,
    PerHeadGate,
    PerTokenGate,
    QKNorm,
    UnconditionalGate,
    ValueBias,
    ValueGate,
    ValueStateGate,
    ValueStateOutputGate,
)

# Sizes that tell the axes of a parameter apart.
_DIMS = AttentionDims(query_heads=6, key_heads=3, head_size=10, value_size=11, model_size=42)
_AXES = {6: "N", 3: "K", 10: "H", 5: "H/2", 11: "Hv", 42: "D", 7: "D/N"}


@dataclass(frozen=True)
class Entry:
    """A variant of the catalogue.

    Attributes:
        variant: an instance with usable defaults.
        source: author, year and arXiv number, and the place in it.
        equation: the weights or the output in one line, with i a query, j a key and h a head.
    """

    variant: Variant
    source: str
    equation: str

    @property
    def parameters(self) -> str:
        """Names and axes of the learned parameters, "none" if there are none."""
        fresh = jax.eval_shape(partial(self.variant.init, dims=_DIMS), jax.random.key(0))
        found = [
            f"{jax.tree_util.keystr(path, simple=True, separator='.')} [{', '.join(_AXES[n] for n in leaf.shape)}]"
            for path, leaf in jax.tree_util.tree_leaves_with_path(fresh)
        ]
        return ", ".join(found) or "none"


def _described(kind: type[RowMap]) -> Entry:
    """A row map with its defaults, as its docstring describes it: "Name, equation." first, and a source."""
    paragraphs = inspect.cleandoc(kind.__doc__ or "").split("\n\n")
    equation = " ".join(paragraphs[0].split()).rstrip(".").partition(", ")[2]
    sources = (" ".join(text.split()) for text in paragraphs if text.startswith("Source: "))
    return Entry(kind(), next(sources, "").removeprefix("Source: ").rstrip("."), equation)


def _softmax(wrapper: Wrapper, source: str, equation: str) -> Entry:
    return Entry(Wrapped(Softmax(), (wrapper,)), source, equation)


_GU = "Gu et al. 2024 (arXiv 2410.10781)"
_BONDARENKO = "Bondarenko et al. 2023 (arXiv 2306.12929), equations 5-7"
_QIU = "Qiu et al. 2025 (arXiv 2505.06708), equation 5"
_VGA = "Value-State Gated Attention (arXiv 2510.09017)"
_TDA = "Threshold Differential Attention, 2026 (arXiv 2601.12145)"

_COMPOSITES: Mapping[str, Entry] = {
    "key-bias": _softmax(
        KeyBias(), f"{_GU}, section 7.3", "w_ij = exp(s_ij) / (exp(scale q_i.k*_h) + sum_l exp(s_il))"
    ),
    "key-value-bias": _softmax(
        KeyValueBias(),
        f"Sun et al. 2024 (arXiv 2402.17762), equation 3; {_GU}, section 7.3",
        "softmax over the keys and k*_h, times the values and v*_h",
    ),
    "value-bias": _softmax(ValueBias(), f"{_GU}, section 7.3", "o_i + v*_h"),
    "qk-norm": _softmax(QKNorm(), "Gemma 3 (arXiv 2503.19786)", "s_ij = scale RMSNorm(q_i).RMSNorm(k_j)"),
    "cosine": _softmax(CosineQK(10.0), "Henry et al. 2020 (arXiv 2010.04245)", "s_ij = 10 q_i.k_j / (|q_i| |k_j|)"),
    "elu-kernel": Entry(
        Wrapped(NormalisedLinear(), (EluFeatures(),)),
        f"Katharopoulos et al. 2020 (arXiv 2006.16236), equation 7; {_GU}, tables 6 and 15",
        "w_ij = phi(q_i).phi(k_j) / sum_l phi(q_i).phi(k_l), phi = elu + 1",
    ),
    "mlp-kernel": Entry(
        Wrapped(ClampedLinear(), (MLPFeatures(),)),
        f"{_GU}, tables 6 and 15",
        "s_ij = scale phi(q_i).phi(k_j), w_ij = s_ij / max(|sum_l s_il|, 1), phi(x) = W_2 relu(W_1 x)",
    ),
    "forget-gate": _softmax(
        ForgetGate(),
        "Lin et al. 2025 (arXiv 2503.02130)",
        "s_ij + sum_{j < l <= i} log f_l, log f = logsigmoid(x W_f + b)",
    ),
    "gate-unconditional": _softmax(UnconditionalGate(), f"{_BONDARENKO}, unconditional per head", "o_h sigmoid(b_h)"),
    "gate-per-head": _softmax(
        PerHeadGate(), f"{_BONDARENKO}, conditional per head", "o_h sigmoid(w_h.mean_t(x_{t,h}) + b_h)"
    ),
    "gate-per-token": _softmax(
        PerTokenGate(), f"{_BONDARENKO}, conditional per token", "o_{i,h} sigmoid(w_h.x_{i,h} + b_h)"
    ),
    "g1-headwise": _softmax(HeadwiseGate(), f"{_QIU}, G1 headwise", "o_{i,h} sigmoid(x_i W)_h"),
    "g1-elementwise": _softmax(ElementwiseGate(), f"{_QIU}, G1 elementwise", "o_i sigmoid(x_i W)"),
    "g2-value-gate": _softmax(ValueGate(), f"{_QIU}, G2", "o_i = sum_j w_ij sigmoid(x_j W) v_j"),
    "input-gate": _softmax(InputGate(), f"{_VGA}, baseline IGA", "o_i = sum_j w_ij sigmoid(x_j W)_h v_j"),
    "value-state-gate-source": _softmax(
        ValueStateGate(), f"{_VGA}, equations 4 and 6", "o_i = sum_j w_ij sigmoid(v_j.w_h) v_j"
    ),
    "value-state-gate-output": _softmax(
        ValueStateOutputGate(), f"{_VGA}, appendix B", "o_{i,h} sigmoid(V_i W)_h, V_i the values of all heads"
    ),
    "head-rms-norm": _softmax(HeadRMSNorm(), "Li 2026 (arXiv 2605.06611)", "RMSNorm(o_{i,h}) g"),
    "rela": Entry(
        Wrapped(ReLUOverLength(length=1), (HeadRMSNorm(),)),
        "Zhang, Titov and Sennrich 2021 (arXiv 2104.07012)",
        "w_ij = relu(s_ij), RMSNorm(o_{i,h}) g",
    ),
    "cosine-threshold": Entry(
        Wrapped(ThresholdRectified(), (CosineQK(),)),
        _TDA,
        "w_ij = relu(cos(q_i, k_j) - beta_h sqrt(2 log(i + 1) / H))^2",
    ),
    "differential": Entry(
        Differential(),
        "Ye et al. 2024 (arXiv 2410.05258), equations 1-3",
        "RMSNorm((softmax(s_1) - lambda softmax(s_2)) v) (1 - lambda_0)",
    ),
    "threshold-differential": Entry(
        ThresholdDifferential(),
        _TDA,
        "RMSNorm((a_1 - clip(lambda, 0, 1) a_2) v), a = relu(cos(q, k) - tau)^2",
    ),
}

VARIANTS: Mapping[str, Entry] = MappingProxyType(
    {name: _described(kind) for name, kind in CATALOGUE.items()} | dict(_COMPOSITES)
)
