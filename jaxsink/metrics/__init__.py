"""Measurements of attention sinks, value drains and residual peaks on a user's own arrays."""

from jaxsink.metrics.residual import norm_at as norm_at
from jaxsink.metrics.residual import peak_ratio as peak_ratio
from jaxsink.metrics.residual import residual_norms as residual_norms
from jaxsink.metrics.risk import excess_risk as excess_risk
from jaxsink.metrics.sink import LogitConcentration as LogitConcentration
from jaxsink.metrics.sink import attention_to_key as attention_to_key
from jaxsink.metrics.sink import attention_to_key_by_token as attention_to_key_by_token
from jaxsink.metrics.sink import attention_to_previous as attention_to_previous
from jaxsink.metrics.sink import detect_triggers as detect_triggers
from jaxsink.metrics.sink import logit_concentration as logit_concentration
from jaxsink.metrics.sink import row_mass as row_mass
from jaxsink.metrics.sink import sink_logit_gap as sink_logit_gap
from jaxsink.metrics.sink import sink_logit_gap_by_token as sink_logit_gap_by_token
from jaxsink.metrics.sink import sink_share as sink_share
from jaxsink.metrics.sink import sink_strength as sink_strength
from jaxsink.metrics.sink import uniform_baseline as uniform_baseline
from jaxsink.metrics.trajectories import LineFit as LineFit
from jaxsink.metrics.trajectories import correlation as correlation
from jaxsink.metrics.trajectories import first_passage as first_passage
from jaxsink.metrics.trajectories import line_fit as line_fit
from jaxsink.metrics.trajectories import r_squared as r_squared
from jaxsink.metrics.trajectories import transition as transition
from jaxsink.metrics.trajectories import value_at as value_at
from jaxsink.metrics.value_drain import value_output_norms as value_output_norms
from jaxsink.metrics.value_drain import value_ratio as value_ratio
