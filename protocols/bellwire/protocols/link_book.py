"""What one end of a link remembers: its requests, windows and pairs, and how the ended ones ended (spec 2)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from bellwire.protocols.errors import ErrorCode, RemoteProtocolError
from bellwire.protocols.fidelity import Goodness, TestRounds
from bellwire.protocols.herald import SCHEMES, WindowEnd
from bellwire.protocols.ids import CreateId, LinkId, NodeId, PairId, WindowId
from bellwire.protocols.limits import MAX_NAME_CHARS, MAX_TOMBSTONES
from bellwire.protocols.node import Node
from bellwire.protocols.pairs import PairEnd
from bellwire.protocols.queue import LinkRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """What an end is told of its link. Durations in nanoseconds on the network's clock.

    `goodness` is the fidelity that the link's pairs are expected to have, with its source in the configuration; `pair_time_ns`
    the mean time until one window heralds a pair, 0 when it is not known. After every `test_every` windows comes one for a test
    round; 0: there are none.
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
    goodness: float = 1.0
    pair_time_ns: int = 0
    test_every: int = 0

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme {self.scheme!r} is not one of {', '.join(SCHEMES)}")
        if not 1 <= len(self.link_id) <= MAX_NAME_CHARS:
            raise ValueError(f"a link's name has 1 to {MAX_NAME_CHARS} characters: ids are made from it")
        if not 0.0 <= self.goodness <= 1.0:
            raise ValueError("goodness must lie in 0..1")
        if self.pair_time_ns < 0:
            raise ValueError("the mean time of a pair is not negative")
        if self.test_every < 0:
            raise ValueError("test rounds come after a number of windows, or never: 0")


class LinkBook:
    """The tables that the parts of a link's end share."""

    def __init__(self, node: Node, settings: LinkSettings, draw: Callable[[], float]) -> None:
        self.node = node
        self.settings = settings
        self.draw = draw
        """Draws a number evenly from 0 (included) to 1 (excluded)."""
        self.requests: OrderedDict[CreateId, LinkRequest] = OrderedDict()
        self.windows: dict[WindowId, WindowEnd] = {}
        self.pairs: dict[PairId, PairEnd] = {}
        self.rounds = TestRounds()
        self.ended: OrderedDict[str, str] = OrderedDict()
        """Why windows and pairs ended, the last ones of them."""

    @property
    def goodness(self) -> Goodness:
        """The fidelity that pairs are expected to have: estimated once there were enough test rounds, configured until then."""
        return self.rounds.estimate() or Goodness(value=self.settings.goodness)

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

    def only(self, peer: NodeId, allowed: NodeId) -> None:
        """Check that a message came from the one participant that may send it.

        Raises:
            RemoteProtocolError: DENIED, when it came from another.
        """
        if peer != allowed:
            raise RemoteProtocolError(
                f"{peer} has no part in this on {self.settings.link_id}", "2 §5", ErrorCode.DENIED
            )
