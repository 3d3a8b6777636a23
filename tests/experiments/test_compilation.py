"""What JAX compiled is kept from one process to the next, and nothing depends on it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import jax
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("/cache_hits") else None)
from experiments.compilation import keep_compiled
keep_compiled()
print(jax.jit(lambda x: x * 2)(3.0), len(hits))
"""


def printed(**environment: str) -> str:
    settings = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", **environment}
    given = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=given | settings, capture_output=True, text=True, check=True, timeout=120
    )
    return ran.stdout.strip()


def test_a_second_process_finds_what_the_first_compiled(tmp_path: Path) -> None:
    assert printed(JAXSINK_CACHE=str(tmp_path)) == "6.0 0"
    assert printed(JAXSINK_CACHE=str(tmp_path)) == "6.0 1"
    assert printed(JAXSINK_CACHE=str(tmp_path / "other")) == "6.0 0"


@pytest.mark.parametrize("name", ["JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"])
def test_the_user_s_own_settings_stand(tmp_path: Path, name: str) -> None:
    own = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own"), "JAX_ENABLE_COMPILATION_CACHE": "false"}[name]
    printed(JAXSINK_CACHE=str(tmp_path), **{name: own})
    assert not list(tmp_path.glob("compiled/*"))
    assert len(list(tmp_path.glob("own/*-cache"))) == (name == "JAX_COMPILATION_CACHE_DIR")


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "compiled").write_text("in the way")
    for _ in range(2):
        assert printed(JAXSINK_CACHE=str(tmp_path)) == "6.0 0"
