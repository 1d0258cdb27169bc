"""What the paper reports, with how we know it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Published:
    """A row of the paper: value and standard error, if it has one. `note` says where the number was read."""

    what: str
    short: str
    value: float
    sigma: float | None
    note: str


PAPER = "Main et al., Nature 638, 383 (2025)"

BELL = Published(
    what="remote Bell pair fidelity to Psi+",
    short="Bell pair fidelity",
    value=0.9689,
    sigma=0.0008,
    note="96.89(8) %, read in texts about the paper",
)
RATE = Published(
    what="remote Bell pair rate, 1/s",
    short="Bell pairs per s",
    value=9.7,
    sigma=None,
    note="9.7/s, read in texts about the paper, which give no error",
)
CZ = Published(
    what="teleported CZ fidelity",
    short="teleported CZ",
    value=0.862,
    sigma=0.009,
    note="86.2(9) %, read in texts about the paper; 86 % in its abstract",
)
GROVER = Published(
    what="Grover success (2 teleported gates)",
    short="Grover success",
    value=0.71,
    sigma=0.01,
    note="71(1) %, read in texts about the paper; 71 % in its abstract",
)
ISWAP = Published(
    what="iSWAP fidelity (2 teleported gates)",
    short="iSWAP",
    value=0.70,
    sigma=0.02,
    note="70(2) %, recalled, not looked up",
)
SWAP = Published(
    what="SWAP fidelity (3 teleported gates)",
    short="SWAP",
    value=0.64,
    sigma=0.02,
    note="64(2) %, recalled, not looked up",
)
