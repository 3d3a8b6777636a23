"""`jaxsink doctor`: is this installation able to do its work?"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.environment import environment, environment_digest
from experiments.evidence import EvidenceStore
from jaxsink import __version__
from jaxsink.attention import BACKENDS, Causal, attend
from jaxsink.tasks import shakespeare

Check = tuple[str, bool, str]
# A quick verification stores a few MB and peaks well below this.
NEEDED_MEMORY = 6 * 2**30
NEEDED_DISK = 2**30


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _attention_agrees() -> float:
    """Largest difference between `attend` and jax.nn on a small causal case: a broken build shows here."""
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (1, 8, 2, 16)) for key in keys)
    # An accelerator rounds the factors of jax.nn's products to fewer bits unless told otherwise.
    with jax.default_matmul_precision("highest"):
        ours, theirs = attend(q, k, v, mask=Causal()), jax.nn.dot_product_attention(q, k, v, is_causal=True)
    return float(jnp.abs(ours - theirs).max())


def checks(runs: Path) -> Iterator[Check]:
    """Every check as (name, whether it is fine, words)."""
    env = environment()
    yield "jaxsink", True, f"{__version__}, Python {sys.version.split()[0]}, {sys.executable}"
    yield "versions", True, ", ".join(f"{name} {env[name]}" for name in ("jax", "jaxlib", "flax", "optax"))
    devices = ", ".join(f"{d.device_kind} ({d.platform})" for d in jax.devices())
    yield "devices", True, f"{devices}; environment {environment_digest()}"
    yield "attention backends", True, ", ".join(BACKENDS)
    yield (
        "64-bit floats",
        True,
        "on" if env["jax_enable_x64"] == "True" else "off; the float64 checks switch them on for themselves",
    )
    error = _attention_agrees()
    # Float32 rounding of sums over 8 keys and 16 features stays near 1e-6.
    yield "attention against jax.nn", error < 1e-5, f"largest difference {error:.1e}"
    chain = shakespeare()
    rows = bool(np.allclose(chain.transition.sum(1), 1))
    yield "packaged bigrams", rows, f"{chain.size} characters, digest {chain.digest[:12]}"
    script = shutil.which("jaxsink") or str(Path(sys.executable).with_name("jaxsink"))
    yield "console script", Path(script).exists(), script
    memory = _memory()
    yield "memory", memory >= NEEDED_MEMORY, f"{memory / 2**30:.1f} GiB (verify wants {NEEDED_MEMORY / 2**30:.0f})"
    place = next(p for p in (runs.absolute(), *runs.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    yield "disk", free >= NEEDED_DISK, f"{free / 2**30:.1f} GiB free for {runs}"
    yield "runs folder", os.access(place, os.W_OK), f"{runs}, {len(EvidenceStore(runs).entries())} runs stored"
