"""Claims NX-I1 to NX-I11: identities and bounds of attention, normalisation and gates over drawn inputs."""

from __future__ import annotations

from theory.claim import Claim
from theory.claims import nx_i_attention, nx_i_bounds

_BY_ID = {claim.id: claim for claim in (*nx_i_attention.CLAIMS, *nx_i_bounds.CLAIMS)}
CLAIMS: tuple[Claim, ...] = tuple(_BY_ID[f"NX-I{number}"] for number in range(1, 12))
