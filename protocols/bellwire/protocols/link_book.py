"""What one end of a link remembers: its requests, windows and pairs, and how the ended ones ended (spec 2)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from bellwire.protocols.errors import ErrorCode, RemoteProtocolError
from bellwire.protocols.fidelity import Goodness, TestRounds
from bellwire.protocols.herald import FIDELITY_TOLERANCE, SCHEMES, BrightStates, Scheme, WindowEnd
from bellwire.protocols.ids import CreateId, LinkId, NodeId, PairId, WindowId, link_id
from bellwire.protocols.limits import MAX_TOMBSTONES
from bellwire.protocols.node import Node, QubitKind
from bellwire.protocols.pairs import PairEnd
from bellwire.protocols.queue import FairQueue, LinkRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """What an end is told of its link. Durations in nanoseconds on the network's clock.

    `goodness` is the fidelity that the link's pairs are expected to have, with its source in the configuration; with
    `bright_states` it is what a request gets that asks for none. `pair_time_ns` is the mean time until one window heralds such
    a pair, 0 when it is not known. After every `test_every` pairs that are made for others comes one for a test round; 0: there
    are none. `lead_ns` is how long after its opening a window begins. With `shared_detectors` the station is asked last: who
    has its detectors then keeps nobody waiting. `guard_ns` is how far off the network's time each party of a window may be.
    """

    link_id: LinkId
    peer: NodeId
    station: NodeId
    primary: bool
    scheme: str = "double-click"
    attempts: int = 1
    window_timeout_ns: int = 2_000_000_000
    report_timeout_ns: int = 500_000_000
    pair_lifetime_ns: int = 5_000_000_000
    backoff_ns: int = 2_000_000
    guard_ns: int = 10_000_000
    goodness: float = 1.0
    pair_time_ns: int = 0
    test_every: int = 0
    bright_states: BrightStates | None = None
    lead_ns: int = 0
    shared_detectors: bool = False

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme {self.scheme!r} is not one of {', '.join(SCHEMES)}")
        link_id(self.link_id)
        if not 0.0 <= self.goodness <= 1.0:
            raise ValueError("goodness must lie in 0..1")
        if self.pair_time_ns < 0:
            raise ValueError("the mean time of a pair is not negative")
        if self.test_every < 0:
            raise ValueError("test rounds come after a number of pairs, or never: 0")
        if self.rule.bright != (self.bright_states is not None):
            raise ValueError(f"scheme {self.scheme} {'needs' if self.rule.bright else 'has no'} bright states")
        best = self.goodness if self.bright_states is None else self.bright_states.best_fidelity
        if self.goodness > best + FIDELITY_TOLERANCE:
            raise ValueError(f"no bright state gives the goodness {self.goodness:g}, the best gives {best:g}")

    @property
    def rule(self) -> Scheme:
        """How the link heralds."""
        return SCHEMES[self.scheme]

    def bright_ratio(self, min_fidelity: float) -> float | None:
        """The bright ratio for a request that asks for a fidelity, or for none; `None` for a scheme without."""
        if self.bright_states is None:
            return None
        return self.bright_states.ratio_for(min(min_fidelity or self.goodness, self.bright_states.best_fidelity))

    def expected_time_ns(self, min_fidelity: float) -> float:
        """The mean time until a window heralds a pair of a fidelity, to first order in its bright ratio; 0 if not known."""
        asked, usual = self.bright_ratio(min_fidelity), self.bright_ratio(0.0)
        return self.pair_time_ns if asked is None or usual is None else self.pair_time_ns * usual / asked


class LinkBook:
    """The tables that the parts of a link's end share."""

    def __init__(self, node: Node, settings: LinkSettings, draw: Callable[[], float]) -> None:
        self.node = node
        self.settings = settings
        self.draw = draw
        """Draws a number evenly from 0 (included) to 1 (excluded)."""
        self.requests: OrderedDict[CreateId, LinkRequest] = OrderedDict()
        self.turns = FairQueue()
        self.windows: dict[WindowId, WindowEnd] = {}
        self.pairs: dict[PairId, PairEnd] = {}
        self.rounds = TestRounds()
        self.ended: OrderedDict[str, str] = OrderedDict()
        """Why windows and pairs ended, the last ones of them."""

    @property
    def best_fidelity(self) -> float:
        """The highest fidelity that can be asked for."""
        bright = self.settings.bright_states
        return self.goodness().value if bright is None else bright.best_fidelity

    def goodness(self, min_fidelity: float = 0.0) -> Goodness:
        """The fidelity that a request's pairs are expected to have: estimated once there are enough test rounds, or configured.

        A fidelity that is asked for is given by bright states as they were calibrated: test rounds ask for none.
        """
        bright, ratio = self.settings.bright_states, self.settings.bright_ratio(min_fidelity)
        if bright is None or ratio is None:
            return self.rounds.estimate() or Goodness(value=self.settings.goodness)
        calibrated = Goodness(value=bright.fidelity_at(ratio))
        return calibrated if min_fidelity else self.rounds.estimate() or calibrated

    def bury(self, subject: str, why: str) -> None:
        """Remember how a window or a pair ended, so that a late message about it can be answered."""
        self.ended[subject] = why
        if len(self.ended) > MAX_TOMBSTONES:
            self.ended.popitem(last=False)

    def settled(self, pair: PairEnd) -> None:
        """A heralded pair is confirmed or gone: it is no longer under way for its request."""
        request = self.requests.get(pair.create_id)
        if pair.under_way and request is not None:
            request.under_way -= 1
        pair.under_way = False

    def refund(self, window_id: WindowId, create_id: CreateId) -> None:
        """A window, or its pair before it was handed over, is gone: give back what was charged for it (spec 2 §3.1)."""
        at_most = None if create_id in self.requests else 2 * self.node.qubits.total_of(QubitKind.COMMUNICATION)
        self.turns.refund(window_id, at_most=at_most)

    def only(self, peer: NodeId, allowed: NodeId) -> None:
        """Check that a message came from the one participant that may send it.

        Raises:
            RemoteProtocolError: DENIED, when it came from another.
        """
        if peer != allowed:
            raise RemoteProtocolError(
                f"{peer} has no part in this on {self.settings.link_id}", "2 §5", ErrorCode.DENIED
            )
