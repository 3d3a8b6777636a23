"""The built-in claims, one row a family, and how users add their own."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from importlib.metadata import entry_points

from theory.claim import Claim
from theory.claims import (
    bb,
    bb_causes,
    bb_settings,
    bb_theory,
    lm,
    lm_heads,
    lm_keys,
    lm_peak,
    lm_trajectory,
    nx_i,
    nx_n,
    nx_p,
    nx_r,
    oq3,
    oq6,
    rp,
    rp_causes,
    th1,
    th2,
    th3,
    th4,
    th6,
    wv,
    wv_attribution,
    wv_controls,
    wv_open,
    wv_small,
)

# In the order in which they are judged and reported: what is computed comes first, as it takes seconds.
BUILT_IN: tuple[Claim, ...] = (
    *th1.CLAIMS,
    *th2.CLAIMS,
    *th3.CLAIMS,
    *th4.CLAIMS,
    *th6.CLAIMS,
    *nx_n.CLAIMS,
    *nx_p.CLAIMS,
    *nx_r.CLAIMS,
    *nx_i.CLAIMS,
    *bb.CLAIMS,
    *rp.CLAIMS,
    *rp_causes.CLAIMS,
    *bb_causes.CLAIMS,
    *bb_settings.CLAIMS,
    *bb_theory.CLAIMS,
    *oq3.CLAIMS,
    *oq6.CLAIMS,
    *wv.CLAIMS,
    *wv_controls.CLAIMS,
    *wv_small.CLAIMS,
    *wv_open.CLAIMS,
    *wv_attribution.CLAIMS,
    *lm.CLAIMS,
    *lm_heads.CLAIMS,
    *lm_peak.CLAIMS,
    *lm_keys.CLAIMS,
    *lm_trajectory.CLAIMS,
)
ENTRY_POINTS = "jaxsink.claims"


def all_claims(modules: Sequence[str] = ()) -> dict[str, Claim]:
    """Every claim by id: the built-in ones, those of installed packages, those of the modules named.

    A package offers claims through the entry-point group "jaxsink.claims", a module through a tuple `CLAIMS`.

    Raises:
      ValueError: a module cannot be imported or has no CLAIMS, or two claims share an id.
    """
    found = list(BUILT_IN)
    for point in entry_points(group=ENTRY_POINTS):
        found += point.load()
    for name in modules:
        try:
            found += importlib.import_module(name).CLAIMS
        except (ImportError, AttributeError, SyntaxError, TypeError) as error:
            raise ValueError(
                f"claims module {name!r} must be importable and hold a tuple CLAIMS, but: {error}."
            ) from error
    table: dict[str, Claim] = {}
    for claim in found:
        if claim.id in table:
            raise ValueError(f"claim id {claim.id!r} is taken by two claims; rename one of them.")
        table[claim.id] = claim
    return table


def _wanted(claim_id: str, prefix: str) -> bool:
    # "BB1" means that claim and not BB11; "BB" and "NX-I" mean a family.
    rest = claim_id.removeprefix(prefix)
    return claim_id == prefix or (claim_id.startswith(prefix) and not (prefix[-1:].isdigit() and rest[:1].isdigit()))


def select(claims: dict[str, Claim], wanted: Sequence[str]) -> list[Claim]:
    """The claims whose id is, or begins with, one of `wanted`; all of them if it is empty.

    Raises:
      ValueError: an entry names no claim; the nearest id is named.
    """
    for prefix in wanted:
        if not any(_wanted(claim_id, prefix) for claim_id in claims):
            nearest = difflib.get_close_matches(prefix.upper(), claims, n=1, cutoff=0.0)
            raise ValueError(f"there is no claim {prefix!r}; the nearest is {nearest[0]!r} (list: jaxsink claims).")
    return [c for c in claims.values() if not wanted or any(_wanted(c.id, prefix) for prefix in wanted)]
