"""Mutants of how the velocity of a sink logit answers to the sizes of values (WV10b, d and e).

WV10 says that a derivative is zero, and WV10c a sign: neither has a function that could be rewritten.
"""

MUTANTS = [
    ("theory.attribution.velocity", "a * (1 - a)", "a", ("WV10b",)),
    ("theory.attribution.velocity", "(other - value)", "other", ("WV10b",)),
    ("theory.attribution.quadratic_pull", "a**2", "-(a**2)", ("WV10b", "WV10d")),
    ("theory.attribution.quadratic_pull", "a**2", "a", ("WV10b", "WV10d")),
    ("theory.attribution.quadratic_pull", "other - value)", "other)", ("WV10b",)),
    ("theory.attribution.own_pull", "- a * (1", "+ a * (1", ("WV10b",)),
    ("theory.attribution.own_pull", "= quadratic", "= -quadratic", ("WV10b",)),
    ("theory.attribution.own_pull", "return result", "return -result", ("WV10b", "WV10d", "WV10e")),
    ("theory.attribution.other_pull", "((1 - a) * _cov", "(a * _cov", ("WV10b",)),
    ("theory.attribution.other_pull", "+ ((q - p)", "- ((q - p)", ("WV10b",)),
    ("theory.attribution._covariance", "x - (q * x)", "x + (q * x)", ("WV10b",)),
]
