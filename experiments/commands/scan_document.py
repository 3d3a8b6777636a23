"""The content of scan.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.commands.scan_zeroing import Measure
from experiments.environment import environment
from jaxsink import __version__
from jaxsink.checkpoints import Loaded
from jaxsink.metrics import SINK_EPSILON
from jaxsink.models import Decoder
from jaxsink.scanning import INACTIVE_SHARE, Scan

SCHEMA = 1
# Dimensions of the residual stream that are listed for each layer, and that are followed through all layers.
_LISTED, _FOLLOWED = 3, 4


def document(
    loaded: Loaded,
    everything: Scan,
    by_domain: Mapping[str, Scan],
    costs: Mapping[str, NDArray[np.float64]] | None,
    measure: Measure,
) -> dict[str, Any]:
    """What a scan found, as plain data; None stands for what no sample defines.

    Args:
      loaded: the model.
      everything: of all samples together. by_domain: of each domain.
      costs: [L, N] by domain, or None. measure: what they are.
    """
    config, where = loaded.model.config, environment()
    device = f"{where.pop('device')} ({where.pop('platform')})"
    return {
        "architecture": {
            "kind": type(loaded.model).__name__.lower(),
            "layers": config.n_layers,
            "heads": config.n_heads,
            "width": config.d_model,
            "vocabulary": config.vocab_size,
        },
        "causal": isinstance(loaded.model, Decoder),
        "versions": {"jaxsink": __version__, **where},
        "device": device,
        "samples": everything.samples,
        "tokens": everything.tokens,
        "epsilon": SINK_EPSILON,
        "inactive_share": INACTIVE_SHARE,
        "zeroing": None if costs is None else {"measure": measure.name, "words": measure.words},
        "dimensions": [
            {"dimension": int(at), "magnitude_by_layer": plain(everything.means.sink_magnitudes[:, at])}
            for at in _followed(everything)
        ],
        "layers": [_layer(everything, layer) for layer in range(config.n_layers)],
        "heads": [
            _head(everything, layer, head, costs) for layer in range(config.n_layers) for head in range(config.n_heads)
        ],
        "domains": {name: _domain(scan) for name, scan in by_domain.items()},
    }


def plain(value: Any) -> Any:
    """Numbers and lists of them for JSON; None for NaN and infinities, which JSON does not have."""
    if isinstance(value, np.ndarray):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _followed(scan: Scan) -> NDArray[np.intp]:
    """The dimensions that hold the largest share of the squared norm at the sink, averaged over layers."""
    energy = scan.means.sink_magnitudes**2
    shares = (energy / energy.sum(axis=1, keepdims=True)).mean(axis=0)
    return np.argsort(-shares, kind="stable")[:_FOLLOWED]


def _layer(scan: Scan, layer: int) -> dict[str, Any]:
    means = scan.means
    sizes = means.sink_magnitudes[layer]
    largest = np.argsort(-sizes, kind="stable")[:_LISTED]
    others = np.delete(sizes, _followed(scan))
    found = {
        "layer": layer,
        "sink_mass_by_head": means.sink_mass[layer],
        "sink_mass": means.sink_mass[layer].mean(),
        "largest_sink_mass": means.sink_mass[layer].max(),
        "mass_on_first_by_head": means.mass_on_first[layer],
        "sink_position": scan.sink_position[layer],
        "sink_position_share": scan.sink_position_share[layer],
        "value_ratio": means.value_ratio[layer],
        "resid_norm_sink": means.resid_norm_sink[layer],
        "resid_norm_median": means.resid_norm_median[layer],
        "massive": means.massive[layer],
        "max_median_ratio": means.max_median_ratio[layer],
        "kurtosis": means.kurtosis[layer],
        "infinity_norm": means.infinity_norm[layer],
        "largest_other_dimension": others.max(initial=0.0),
    }
    dimensions = [{"dimension": int(at), "magnitude": plain(sizes[at])} for at in largest]
    return {name: plain(value) for name, value in found.items()} | {"largest_dimensions": dimensions}


def _head(scan: Scan, layer: int, head: int, costs: Mapping[str, NDArray[np.float64]] | None) -> dict[str, Any]:
    means, share = scan.means, scan.output_share[layer, head]
    scores = {name: plain(value[layer, head]) for name, value in means.head_scores._asdict().items()}
    return {
        "layer": layer,
        "head": head,
        "sink_mass": plain(means.sink_mass[layer, head]),
        "mass_on_first": plain(means.mass_on_first[layer, head]),
        "sink_rate": plain(means.first_is_sink[layer, head]),
        "entropy": scores.pop("entropy"),
        "dormancy": scores | {"output_share": plain(share), "inactive": bool(share < INACTIVE_SHARE)},
        "zeroing_cost_by_domain": costs and {name: plain(cost[layer, head]) for name, cost in costs.items()},
    }


def _domain(scan: Scan) -> dict[str, Any]:
    means = scan.means
    peak = means.resid_norm_sink / means.resid_norm_median
    found = {
        "samples": scan.samples,
        "tokens": scan.tokens,
        "sink_mass": means.sink_mass.mean(),
        "mass_on_first": means.mass_on_first.mean(),
        "sink_rate_percent": 100 * means.first_is_sink.mean(),
        "smallest_value_ratio": means.value_ratio.min(),
        "largest_peak": peak.max(),
        "sink_mass_by_layer": means.sink_mass.mean(axis=1),
        "sink_position_by_layer": scan.sink_position,
        "value_ratio_by_layer": means.value_ratio,
        "resid_norm_sink_by_layer": means.resid_norm_sink,
        "resid_norm_median_by_layer": means.resid_norm_median,
        "output_share_by_head": scan.output_share,
    }
    return {name: plain(value) for name, value in found.items()}
