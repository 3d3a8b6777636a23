"""Predictions of NX-N made wrong, one at a time: (target, old, new, claims that must then be refuted)."""

_N = "theory.necessity."

MUTANTS = [
    (_N + "answer", "tokens[1:j]", "tokens[0:j]", ("NX-N1", "NX-N2")),
    (_N + "answer", "tokens[1:j]", "tokens[1 : j - 1]", ("NX-N1", "NX-N2")),
    (_N + "answer", "tokens[1:j]", "tokens[2:j]", ("NX-N1", "NX-N2")),
    (_N + "answer", "sequence[j - 1] =", "sequence[j - 2] =", ("NX-N1", "NX-N2")),
    (_N + "row_divisor_gain", "(trigger - 1) / trigger", "trigger / trigger", ("NX-N1",)),
    (_N + "row_divisor_gain", "(trigger - 1) / trigger", "(trigger - 1) / (trigger + 1)", ("NX-N1",)),
    (_N + "elsewhere", "(row - 1) / (np", "row / (np", ("NX-N2",)),
    (_N + "elsewhere", "np.exp(logit) + row - 1", "np.exp(logit) + row", ("NX-N2",)),
    (_N + "elsewhere", "np.exp(logit) +", "np.exp(-logit) +", ("NX-N2",)),
    # The leading order alone is out by (i - 1) e^-c, a tenth at c = 5.
    (_N + "elsewhere", "np.exp(logit) + row - 1", "np.exp(logit)", ("NX-N2",)),
    (_N + "largest_error", "(length - 2) / (np", "(length - 1) / (np", ("NX-N2",)),
    (_N + "largest_error", "+ last - 1", "+ 0 * last", ("NX-N2",)),
    (_N + "largest_error", "np.where(trigger == length, length - 1, length)", "length + 0 * trigger", ("NX-N2",)),
    (_N + "largest_error", "np.exp(logit)", "np.exp(2 * logit)", ("NX-N2",)),
    (_N + "trigger_error", "np.exp(-logit) / (", "np.exp(logit) / (", ("NX-N2",)),
    (_N + "trigger_error", "(np.exp(-logit) + trigger - 1)", "(trigger - 1)", ("NX-N2",)),
    (_N + "trigger_error", "trigger - 1) * largest", "trigger - 1)", ("NX-N2",)),
    (_N + "trigger_error", "+ trigger - 1)", "+ trigger)", ("NX-N2",)),
    (_N + "readout", "ones[[0, -1]]", "ones[[-1]]", ("NX-N3",)),
    (_N + "readout", "pinv(value[1:])", "pinv(2 * value[1:])", ("NX-N3",)),
    (_N + "elsewhere_from_output", "(output @ w - start)", "(output @ w + start)", ("NX-N3",)),
    (_N + "elsewhere_from_output", "/ (1 - start)", "", ("NX-N3",)),
    # The bound is one of worst cases and holds with a factor of four to spare: only a smaller order is seen.
    (_N + "most_elsewhere", "length * loss", "loss / length", ("NX-N3",)),
    (_N + "most_elsewhere", "np.sqrt(length", "np.square(length", ("NX-N3",)),
    (_N + "most_elsewhere", "norm * np", "norm**-9 * np", ("NX-N3",)),
    (_N + "zero_loss", "(width - 3) / (3 * m)", "(width - 3) / (2 * m)", ("NX-N4",)),
    (_N + "zero_loss", "((m - 1) ** 2 + 1) / m**2", "1", ("NX-N4",)),
    (_N + "zero_loss", "(drawn + flags)[1:].mean() / length", "(drawn + flags)[1:].mean()", ("NX-N4",)),
    (_N + "zero_loss", "(drawn + flags)[1:]", "(drawn + flags)", ("NX-N4",)),
]
# Not here: of zero_loss with `every` no claim makes use; the tests of the predictions compare it with a draw.
