from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from bellwire.backends.interface import BackendContext, NodeBackend
from bellwire.backends.mock import MockBackend, create_backend
from bellwire.backends.registry import available, load_backend
from bellwire.protocols.errors import BackendError, ConfigError

from .conftest import Declare


def broken(context: BackendContext) -> NodeBackend:
    raise OSError(f"no device /dev/ion-trap for {context.node}")


def misconfigured(context: BackendContext) -> NodeBackend:
    raise ConfigError("option laser: expected a wavelength")


def nothing(context: BackendContext) -> NodeBackend | None:
    return None


@pytest.fixture(autouse=True)
def lab(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("contract_lab")
    module.__dict__.update(broken=broken, misconfigured=misconfigured, nothing=nothing, create_backend=create_backend)
    monkeypatch.setitem(sys.modules, "contract_lab", module)


def test_available_backends_are_named_in_order(declare: Declare) -> None:
    declare(("sim", "contract_lab:create_backend"), ("mock", "contract_lab:create_backend"))
    assert available() == ["mock", "sim"]


def test_load_backend_of_known_name_makes_it(declare: Declare, context: BackendContext) -> None:
    declare(("mock", "bellwire.backends.mock:create_backend"))
    assert isinstance(load_backend("mock", context), MockBackend)


def test_load_backend_of_unknown_name_lists_the_known(declare: Declare, context: BackendContext) -> None:
    declare(("sim", "contract_lab:create_backend"), ("mock", "contract_lab:create_backend"))
    with pytest.raises(ConfigError, match="there is no backend 'ions': installed are mock, sim"):
        load_backend("ions", context)


def test_load_backend_with_none_installed_says_so(declare: Declare, context: BackendContext) -> None:
    declare()
    with pytest.raises(ConfigError, match="installed are none"):
        load_backend("sim", context)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("contract_lab:broken", "backend 'lab' cannot be made: OSError: no device /dev/ion-trap for alice"),
        ("contract_lab:nothing", "made a NoneType, expected a NodeBackend"),
        ("contract_lab:absent", "cannot be loaded from contract_lab:absent: AttributeError"),
        ("no_such_module_anywhere:create", "cannot be loaded from .*ModuleNotFoundError"),
    ],
)
def test_load_backend_that_fails_stops_with_the_reason(
    declare: Declare, context: BackendContext, value: str, reason: str
) -> None:
    declare(("lab", value))
    with pytest.raises(BackendError, match=reason):
        load_backend("lab", context)


def test_load_backend_with_wrong_options_says_which(declare: Declare, context: BackendContext) -> None:
    declare(("lab", "contract_lab:misconfigured"))
    with pytest.raises(ConfigError, match="option laser"):
        load_backend("lab", context)


def test_load_backend_declared_twice_is_refused(declare: Declare, context: BackendContext) -> None:
    declare(("lab", "contract_lab:broken"), ("lab", "contract_lab:create_backend"))
    with pytest.raises(BackendError, match="declared twice, as contract_lab:broken and contract_lab:create_backend"):
        load_backend("lab", context)


def test_packaged_backends_as_declared_can_be_loaded(declare: Declare, context: BackendContext) -> None:
    """What pyproject.toml declares is there; `sim` without options says what it misses."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))
    entries = project["project"]["entry-points"]["bellwire.backends"]
    declare(*entries.items())
    assert available() == ["mock", "sim", "tags"]
    assert isinstance(load_backend("mock", context), MockBackend)
    with pytest.raises(ConfigError, match="backend sim of alice: missing option 'endpoint'"):
        load_backend("sim", context)
