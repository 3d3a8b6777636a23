"""Modules that lie beside a test file: the test folders are no packages, so that their names hide no real one."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load(test_file: str, name: str) -> ModuleType:
    """Import the module `name` from the folder of `test_file`."""
    spec = importlib.util.spec_from_file_location(name, Path(test_file).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
