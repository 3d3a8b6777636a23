"""Figures of the evidence and of the verdicts: pure functions that return a matplotlib figure."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from matplotlib.figure import Figure

from experiments.figures.attention_maps import attention_maps as attention_maps
from experiments.figures.controls import controls as controls
from experiments.figures.dynamics import dynamics as dynamics
from experiments.figures.evidence import Arms as Arms
from experiments.figures.evidence import Run as Run
from experiments.figures.head_costs import head_costs as head_costs
from experiments.figures.head_domains import head_domains as head_domains
from experiments.figures.interventions import interventions as interventions
from experiments.figures.measures import measures as measures
from experiments.figures.profiles import profiles as profiles
from experiments.figures.removal import block_removal as block_removal
from experiments.figures.removal import residual_gradients as residual_gradients
from experiments.figures.removed_layers import removed_layers as removed_layers
from experiments.figures.residual_norms import residual_by_token as residual_by_token
from experiments.figures.residual_norms import residual_norms as residual_norms
from experiments.figures.settings import copy_probability as copy_probability
from experiments.figures.settings import key_types as key_types
from experiments.figures.sink_costs import sink_costs as sink_costs
from experiments.figures.small_models import small_models as small_models
from experiments.figures.style import arm_colours as arm_colours
from experiments.figures.style import save as save
from experiments.figures.style import style as style
from experiments.figures.theory_flows import concentration as concentration
from experiments.figures.theory_flows import phase_portrait as phase_portrait
from experiments.figures.theory_flows import value_convergence as value_convergence
from experiments.figures.theory_growth import network_growth as network_growth
from experiments.figures.theory_growth import sink_logit_growth as sink_logit_growth
from experiments.figures.theory_optimisers import order_of_convergence as order_of_convergence
from experiments.figures.theory_optimisers import peak_mechanism as peak_mechanism
from experiments.figures.trajectory import trajectory as trajectory
from experiments.figures.value_norms import value_norms as value_norms
from experiments.figures.value_pull import value_pull as value_pull
from experiments.figures.variant_survey import variant_survey as variant_survey


def _of_runs(draw: Callable[[Arms], Figure]) -> Callable[[Arms, dict[str, Any]], Figure]:
    return lambda runs, claim: draw(runs)


FIGURES: Mapping[str, Callable[[Arms, dict[str, Any]], Figure]] = MappingProxyType(
    {
        "dynamics": _of_runs(dynamics),
        "attention_maps": _of_runs(attention_maps),
        "value_norms": _of_runs(value_norms),
        "residual_norms": _of_runs(residual_norms),
        "residual_by_token": _of_runs(residual_by_token),
        "block_removal": _of_runs(block_removal),
        "residual_gradients": _of_runs(residual_gradients),
        "interventions": _of_runs(interventions),
        "key_types": _of_runs(key_types),
        "copy_probability": _of_runs(copy_probability),
        "sink_logit_growth": _of_runs(sink_logit_growth),
        "value_convergence": _of_runs(value_convergence),
        "phase_portrait": _of_runs(phase_portrait),
        "concentration": _of_runs(concentration),
        "peak_mechanism": _of_runs(peak_mechanism),
        "order_of_convergence": _of_runs(order_of_convergence),
        "network_growth": _of_runs(network_growth),
        "value_pull": _of_runs(value_pull),
        "variant_survey": _of_runs(variant_survey),
        "sink_costs": _of_runs(sink_costs),
        "profiles": _of_runs(profiles),
        "controls": _of_runs(controls),
        "small_models": _of_runs(small_models),
        "trajectory": _of_runs(trajectory),
        "removed_layers": _of_runs(removed_layers),
        "head_domains": _of_runs(head_domains),
        "head_costs": _of_runs(head_costs),
        "measures": lambda runs, claim: measures(claim),
    }
)
"""Name in a claim's `figure` field to the function of (runs by arm, entry of claims.json) that draws it."""
