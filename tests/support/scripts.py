"""Scripts of this folder's neighbours as modules, to test what they are made of."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any


def load_script(path: str) -> Any:
    """Load a script by its path below `tests`."""
    script = Path(__file__).parents[1] / path
    spec = importlib.util.spec_from_file_location(f"script_{script.parent.name}_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Where dataclasses look their own module up.
    spec.loader.exec_module(module)
    return module
