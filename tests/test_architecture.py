"""The direction of imports, what a plain import may load, and the size of files."""

import ast
import importlib.metadata
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PACKAGES = ("jaxsink", "theory", "experiments")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_LINES = 400


def module_name(path: Path) -> str:
    """`jaxsink/a/__init__.py` -> `jaxsink.a.__init__`: a file comes last, so `from .` means its folder."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(source: str, module: str) -> Iterator[str]:
    """The absolute names of all modules that a source imports, wherever in it and however written."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=base, names=names, level=level):
                folder = module.split(".")[:-level] if level else []
                prefix = ".".join([*folder, *([base] if base else [])])
                yield from (f"{prefix}.{alias.name}" for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name


def forbidden(module: str, imported: str) -> bool:
    """Whether the module may not import that name."""
    package, root = module.split(".")[0], imported.split(".")[0]
    if root in {"torch", "transformers"}:
        return module != "experiments.commands.bench_peer"  # where they are what speed is compared with
    if root == "pickle":
        return True
    if root == "flax":
        return not module.startswith("jaxsink.models.")
    if module.startswith("jaxsink.attention.") and f"{imported}.".startswith("jaxsink.models."):
        return True  # flax by another name
    return root in PACKAGES and PACKAGES.index(root) > PACKAGES.index(package)


def violations(source: str, module: str) -> list[str]:
    """The forbidden imports of a module's source."""
    return sorted({name for name in imports(source, module) if forbidden(module, name)})


def test_every_package_was_found() -> None:
    assert {module_name(path).split(".")[0] for path in MODULES} == set(PACKAGES)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_module_imports_only_what_it_may(path: Path) -> None:
    assert violations(path.read_text("utf-8"), module_name(path)) == []


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_file_is_short(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) < MAX_LINES


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("jaxsink.metrics.sink", "import theory", ["theory"]),
        ("jaxsink.metrics.sink", "def f():\n    from experiments.cli import main", ["experiments.cli.main"]),
        ("theory.laws", "from experiments import cli", ["experiments.cli"]),
        ("theory.laws", "import jaxsink.attention as a", []),
        ("experiments.cli", "from theory import laws\nimport jaxsink", []),
        ("jaxsink.attention.masks", "import flax.linen as nn", ["flax.linen"]),
        ("jaxsink.attention.masks", "from ..models import toy", ["jaxsink.models.toy"]),
        ("jaxsink.attention.__init__", "from . import masks", []),
        ("jaxsink.training.loop", "from flax import linen", ["flax.linen"]),
        ("jaxsink.models.toy", "from flax import linen", []),
        ("theory.laws", "import flaxen", []),
        ("experiments.scan", "import pickle, torch.nn", ["pickle", "torch.nn"]),
        ("experiments.scan", "import importlib\nimportlib.import_module('transformers')", ["transformers"]),
    ],
)
def test_checker_catches_forbidden_imports(module: str, source: str, expected: list[str]) -> None:
    assert violations(source, module) == expected


def loaded_by(statement: str, path: str = "") -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after the statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    search = os.pathsep.join(filter(None, [path, str(ROOT)]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": search, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_attention_loads_no_flax() -> None:
    loaded = loaded_by("import jaxsink.attention")
    assert "jax" in loaded
    assert "flax" not in loaded


def test_importing_jaxsink_alone_loads_no_jax() -> None:
    assert "jax" not in loaded_by("import jaxsink")


def test_nothing_loads_torch(tmp_path: Path) -> None:
    # Where torch is missing, an import of it inside try/except would pass unseen: an empty one shows it.
    (tmp_path / "torch.py").touch()
    assert "torch" in loaded_by("import torch", path=str(tmp_path))
    loaded = loaded_by(
        "import jaxsink.attention, jaxsink.models, theory, experiments.cli, experiments.commands.bench_scan",
        path=str(tmp_path),
    )
    assert "torch" not in loaded


def required(requirements: list[str]) -> set[str]:
    """The names of all distributions that the requirements bring in here, directly or through others."""
    found: set[str] = set()
    todo = [Requirement(text) for text in requirements]
    while todo:
        requirement = todo.pop()
        extras = requirement.extras or {""}
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        name = canonicalize_name(requirement.name)
        if name in found:
            continue
        found.add(name)
        for text in importlib.metadata.requires(name) or []:
            child = Requirement(text)
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in extras):
                child.marker = None
                todo.append(child)
    return found


def test_runtime_requirements_pull_no_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    names = required(project["dependencies"])
    assert {"jax", "jaxlib", "safetensors"} <= names  # the walk goes beyond the direct requirements
    assert not names & {"torch", "transformers", "tensorflow"}
