"""What a report shows before its claims: sections of figures, each figure with the arms that it draws."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

from theory.small_models import KINDS, SCHEMES


class Shown(NamedTuple):
    """One figure of the overview.

    Attributes:
      title: its caption. alt: what it shows, in words.
      arms: what it draws, in this order, as claims name them; those without evidence are left out.
      beside: those of them that are there for comparison: without any other, there is no figure.
    """

    title: str
    alt: str
    arms: tuple[str, ...]
    beside: tuple[str, ...] = ()

    def drawn(self, known: Collection[str]) -> list[str]:
        """The arms that are drawn, of those that have evidence; none if there is no figure."""
        found = [arm for arm in self.arms if arm in known]
        return found if set(found) - set(self.beside) else []


_DEEP = ("deep_adam", "deep_sgd", "deep_relu")

SECTIONS: Mapping[str, Mapping[str, Shown]] = MappingProxyType(
    {
        "Theory": {
            "sink_logit_growth": Shown(
                "Growth of the sink logits",
                "Sink logits of restricted models against log t under gradient flow, beside 1/2 log t + r_v where they "
                "are predicted to grow, and beside the predicted value where they are predicted to freeze.",
                (
                    "flow_growth",
                    "flow_joint",
                    "flow_contexts",
                    "shakespeare_growth",
                    "shakespeare_joint",
                    "shakespeare_contexts",
                ),
            ),
            "value_convergence": Shown(
                "Drain of the value state",
                "Distance of beta from its predicted limit over time, with the predicted rate and the fitted one, and "
                "the drain against the frozen sink logit beside e^-a.",
                ("flow_drain", "flow_drain_sparse", "shakespeare_drain"),
            ),
            "phase_portrait": Shown(
                "Phase portrait",
                "Joint flows in the plane of mean sink logit and drain: with one context they end where they are "
                "predicted to freeze, on the curve e^-a; with several they follow that curve without end.",
                ("flow_joint", "flow_contexts"),
            ),
            "concentration": Shown(
                "Concentration of the sink logits",
                "Spread of the sink logits over the queries, under gradient flow against time, under Adam and gradient "
                "descent against the step.",
                ("flow_joint", "flow_joint_flat", "shakespeare_joint", "descent_adam", "descent_sgd"),
            ),
            "peak_mechanism": Shown(
                "Mechanism of residual peaks",
                "Residual scale of <s> against the step on linear and logarithmic axes, under Adam, gradient descent "
                "and its sign, with the predicted curves.",
                ("peak_adam", "peak_sgd", "peak_sign", "peak_coupled"),
            ),
            "order_of_convergence": Shown(
                "Networks against the flow",
                "Training paths of a network with equal key counts beside the flow of the restricted model, and their "
                "largest deviation against the rate, with the slope of first order.",
                ("path_descent", "path_adam"),
            ),
            "network_growth": Shown(
                "Growth in the minimal network",
                "Sink logits of the minimal network against the logarithm of time or step, under gradient flow with "
                "one and many contexts, under gradient descent and under Adam, beside predictions or a slope of 1/2.",
                ("minimal_constant", "minimal_one_context", "minimal_many_contexts", "minimal_sgd", "minimal_adam"),
            ),
            "value_pull": Shown(
                "What a longer value does to the sink logit",
                "Velocity of the sink logit while a sink forms, and its derivative in the norm of the value of <s>, "
                "measured and predicted, over training steps and by character.",
                ("trained_pulls",),
            ),
        },
        "Training": {
            "dynamics": Shown(
                "Training dynamics",
                "Excess risks, attention to <s>, sink logit gap and value norm of <s> over training steps.",
                ("softmax",),
            ),
            "attention_maps": Shown(
                "Attention maps",
                "Attention weights from each token to those before it, with and without trigger tokens, per layer.",
                ("softmax",),
            ),
            "value_norms": Shown(
                "Value norms",
                "Norm of the value output at each token, with and without trigger tokens.",
                ("softmax",),
            ),
            "residual_norms": Shown(
                "Residual norms",
                "Residual norm over training at <s>, at the most frequent token and elsewhere, per block and arm.",
                _DEEP,
            ),
            "residual_by_token": Shown(
                "Residual norms by token",
                "Residual norm at each token after training, per block and arm.",
                _DEEP,
            ),
        },
        "Causes": {
            "interventions": Shown(
                "What follows when attention or value is held",
                "Attention to <s> and value norm of <s> over training steps, beside the free run, with a diagram of "
                "which of the two was held, how and from which step on.",
                (
                    "softmax",
                    "attention_uniform",
                    "norm_held_peak",
                    "norm_held_start",
                    "value_frozen",
                    "norm_held_late",
                ),
                beside=("softmax",),
            ),
            "block_removal": Shown(
                "Removal of single blocks",
                "Peak, sink, value drain and risks of three blocks without each of them, beside what the source says "
                "of block 0, and a table of what is left when parts are cut.",
                ("deep_adam",),
            ),
            "residual_gradients": Shown(
                "Gradients and growth at <s>",
                "Cosines of the gradients at <s> over training and of its growth, and their images under the value map "
                "of an upper block beside those of a content token and of a random direction.",
                ("deep_adam",),
            ),
        },
        "Settings": {
            "key_types": Shown(
                "What dormant heads attend to without <s>",
                "Share of dormant attention and value norm by the token of the key, for the tokens that get "
                "most of it, without <s> and with it.",
                ("without_start", "softmax"),
                beside=("softmax",),
            ),
            "copy_probability": Shown(
                "From a Markov chain to Bigram-Backcopy",
                "Attention to <s> and the risk added by cutting attention, against the probability of a copy.",
                ("markov", "half_copied", "softmax"),
                beside=("softmax",),
            ),
            "sink_costs": Shown(
                "What sinks cost and buy",
                "Excess risk added by rounding, eviction of a key, longer and other texts, with the sink and the peak "
                "of each network: softmax, softmax1, a sink logit, sigmoid and a gate.",
                ("costs_softmax", "costs_softmax_n", "costs_sink_logit", "costs_sigmoid", "costs_g1_gate"),
            ),
        },
        "Waiver elements": {
            "controls": Shown(
                "Which controls make a waiver element",
                "Attention received by the controlled token and its value norm over the median, against the block, for "
                "each control of the mask and of the positions.",
                (
                    "smollm2",
                    "alone",
                    "with_previous",
                    "previous_only",
                    "last_five",
                    "all_but_first",
                    "first_only",
                    "alone_early",
                    "alone_late",
                    "smollm2_first_number",
                    "minilm",
                    "minilm_alone",
                    "first_vector",
                    "norm_matched",
                    "interior_vector",
                    "mean_vector",
                ),
                beside=("smollm2", "minilm"),
            ),
            "small_models": Shown(
                "Both controls on small models",
                "Matrices of small decoders and encoders against their schemes of positions: attention to the first "
                "token, and to the controlled token without and with each control.",
                tuple(f"{kind}_{scheme}" for kind in KINDS for scheme in SCHEMES),
            ),
        },
        "Active and dormant heads": {
            "profiles": Shown(
                "Sink, value drain and residual peak in pretrained models",
                "Attention received, value norm and residual norm by layer and position of a passage, for each model.",
                ("smollm2", "smollm2_repeated", "glassllm", "minilm", "minilm_shifted"),
            ),
            "removed_layers": Shown(
                "Which layers write the residual peak",
                "Residual norm of the first token by block, and what is left of its peak when the attention or the MLP "
                "of a block is removed.",
                ("first_smollm2", "first_glassllm"),
            ),
            "head_domains": Shown(
                "Heads by domain",
                "Weight of each head on the first token for several kinds of text, its difference to prose with the "
                "heads that differ, and the entropy of its attention.",
                ("heads_prose", "heads_code", "heads_documentation", "heads_random", "heads_repeated"),
            ),
            "head_costs": Shown(
                "What zeroing a head costs",
                "Expected increase of the loss when a head is zeroed, against its weight on the first token.",
                ("zeroed_prose", "zeroed_code"),
            ),
            "trajectory": Shown(
                "A small language model over training",
                "Attention to the first position, Dlogit, value and residual norm there over training steps, beside "
                "those of Bigram-Backcopy, and each head's weight on the first position in either domain at the end.",
                ("language", "language_bare", "softmax", "three_blocks"),
                beside=("softmax", "three_blocks"),
            ),
        },
    }
)
"""Section to its figures by name, both in the order of the report. A section without any figure is left out."""
