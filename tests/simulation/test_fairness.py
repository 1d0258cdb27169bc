"""The link under load: applications take turns, priorities come first, and every request is answered in time (spec 2 §3.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import pytest
from scene import ALICE, MS, lossy, measuring

from bellwire.protocols.endpoint import Answer
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.messages import LinkCreated
from bellwire.protocols.queue import FairQueue, LinkRequest, RequestState
from bellwire.sim.virtual import SECOND_NS, VirtualTestbed

Patch = pytest.MonkeyPatch


# Fair turns.


class Tally:
    """Counts what an application has been told by Alice, by request, without looking at anything twice."""

    def __init__(self, bed: VirtualTestbed, name: str) -> None:
        self.application = bed.application(name)
        self.by_request: Counter[str] = Counter()
        self._seen = 0

    def count(self) -> Sequence[str]:
        """Look at what is new. Returns the requests that it is about."""
        new, self._seen = self.application.measured[self._seen :], len(self.application.measured)
        told = [message.create_id for node, message in new if node == ALICE]
        self.by_request.update(told)
        return told

    @property
    def served(self) -> int:
        """How many pairs it has been told of."""
        self.count()
        return self.by_request.total()


class Customer(Tally):
    """An application that always has so many requests of so many pairs in the queue."""

    def __init__(self, bed: VirtualTestbed, name: str, requests: int, pairs: int) -> None:
        super().__init__(bed, name)
        self.requests, self.pairs, self.asked = requests, pairs, 0

    def ask(self) -> None:
        while self.asked - self.served < self.requests * self.pairs:
            self.application.send(ALICE, measuring(self.pairs))
            self.asked += self.pairs


class Hasty(Tally):
    """An application that asks again and again for far more than it can get by its deadline."""

    def __init__(self, bed: VirtualTestbed, name: str, *, every_ns: int, max_time_ns: int) -> None:
        super().__init__(bed, name)
        self.bed, self.every_ns, self.max_time_ns = bed, every_ns, max_time_ns
        self._next_ns = 0

    def ask(self) -> None:
        if self.bed.net.now_ns >= self._next_ns:
            self._next_ns = self.bed.net.now_ns + self.every_ns
            self.application.send(ALICE, measuring(1_000, max_time_ns=self.max_time_ns))


def share(bed: VirtualTestbed, customers: Sequence[Customer | Hasty], pairs: int) -> list[float]:
    """What applications get of a saturated link until so many pairs are made, each as a share of an even part."""

    def served() -> bool:
        for customer in customers:
            customer.ask()
        return sum(customer.served for customer in customers) >= pairs

    bed.net.run_until(served, limit_ns=60 * SECOND_NS)
    return [len(customers) * customer.served / sum(each.served for each in customers) for customer in customers]


def shares(seed: int) -> list[float]:
    """The shares of three applications of different habits."""
    bed = lossy(seed)
    customers = [Customer(bed, "bulk", 1, 5_000), Customer(bed, "batches", 4, 10), Customer(bed, "singles", 12, 1)]
    return share(bed, customers, pairs=900)


def beside_deadlines(seed: int, *, every_ns: int, max_time_ns: int, pairs: int = 600) -> list[float]:
    """The shares of an application in no hurry and of one whose requests end by their deadlines."""
    bed = lossy(seed)
    customers: list[Customer | Hasty] = [
        Customer(bed, "bulk", 1, 5_000),
        Hasty(bed, "hasty", every_ns=every_ns, max_time_ns=max_time_ns),
    ]
    return share(bed, customers, pairs)


def in_order_of_arrival(_: FairQueue, requests: Iterable[LinkRequest]) -> LinkRequest | None:
    wanting = [each for each in requests if each.state is RequestState.QUEUED and each.missing > 0]
    return wanting[0] if wanting else None


def newest_first(queue: FairQueue, requests: Iterable[LinkRequest]) -> LinkRequest | None:
    return in_order_of_arrival(queue, reversed(list(requests)))


def is_fair(seed: int) -> bool:
    return all(abs(share - 1) <= 0.05 for share in shares(seed))


@pytest.mark.parametrize("seed", range(3))
def test_saturated_link_is_shared_evenly_whatever_the_habits_of_its_applications(seed: int) -> None:
    """2 §3.1: within a priority, applications take turns."""
    assert is_fair(seed), shares(seed)


@pytest.mark.parametrize(("every_ns", "max_time_ns"), [(2 * MS, 10 * MS), (3 * MS, 10 * MS), (2 * MS, 5 * MS)])
def test_requests_that_end_by_their_deadlines_cost_their_application_no_turn(every_ns: int, max_time_ns: int) -> None:
    """2 §3.1: what is charged for a window is taken back when it brings nothing, also when its request has ended."""
    assert beside_deadlines(1, every_ns=every_ns, max_time_ns=max_time_ns) == pytest.approx([1, 1], abs=0.05)


def test_requests_whose_deadlines_cannot_be_kept_leave_the_link_to_others() -> None:
    """2 §3.1: who asks for what cannot be done in time pays for the time that it takes.

    Each request has its turn when the one before it has ended, a millisecond before its own deadline.
    """
    bulk, hasty = beside_deadlines(1, every_ns=MS, max_time_ns=10 * MS, pairs=200)
    assert bulk > 1.8
    assert hasty < 0.2


@pytest.mark.parametrize("broken", [in_order_of_arrival, newest_first])
def test_queue_broken_to_an_unfair_order_is_noticed(
    broken: Callable[[FairQueue, Iterable[LinkRequest]], LinkRequest | None], monkeypatch: Patch
) -> None:
    monkeypatch.setattr(FairQueue, "next", broken)
    assert not is_fair(0)


def made_for_others(seed: int, times: int) -> float:
    """How many pairs are made for two other applications, on average, while ten are made for an urgent request."""
    bed = lossy(seed)
    customers = [Customer(bed, name, 4, 50) for name in ("one", "two")]
    urgent, made = bed.application("urgent"), 0
    for _ in range(times):
        for customer in customers:
            customer.ask()
        bed.net.run_for(3 * MS)
        before, have = sum(customer.served for customer in customers), len(urgent.measured)
        urgent.send(ALICE, measuring(10, priority=5))
        bed.net.run_until(lambda have=have: len(urgent.measured) == have + 20, limit_ns=SECOND_NS)  # type: ignore[misc]
        made += sum(customer.served for customer in customers) - before
    return made / times


def test_urgent_request_waits_for_the_windows_that_are_open_and_for_no_other(monkeypatch: Patch) -> None:
    """2 §3.1: priorities come first. Two windows are open when the request comes, and two may be while it is being offered."""
    assert made_for_others(1, times=20) <= 5
    monkeypatch.setattr(FairQueue, "next", in_order_of_arrival)
    assert made_for_others(1, times=2) > 10


class Impatient(Tally):
    """An application that asks for ten pairs again and again, each time within half a second, and notes what comes when."""

    def __init__(self, bed: VirtualTestbed, name: str) -> None:
        super().__init__(bed, name)
        self.bed = bed
        self.requests: list[tuple[int, list[Answer]]] = []
        self.ended_ns: dict[str, int] = {}
        self._errors = 0

    def ask(self) -> None:
        self.requests.append((self.bed.net.now_ns, self.application.send(ALICE, measuring(10, max_time_ns=500 * MS))))

    @property
    def created(self) -> dict[str, int]:
        """When each request was sent that was taken."""
        return {each[0].create_id: at for at, each in self.requests if each and isinstance(each[0], LinkCreated)}

    @property
    def refused(self) -> list[RequestError]:
        return [answers[0] for _, answers in self.requests if answers and isinstance(answers[0], RequestError)]

    def look(self) -> None:
        complete = [create_id for create_id in self.count() if self.by_request[create_id] == 10]
        failed = [error.create_id for error in self.application.errors[self._errors :]]
        self._errors += len(failed)
        for create_id in (*complete, *failed):
            self.ended_ns[create_id] = self.bed.net.now_ns


def test_overloaded_link_answers_every_request_by_its_deadline_and_shares_what_it_gives() -> None:
    """2 §2.4: three applications ask for four times what the link can give, each for more than the one before it."""
    bed = lossy(7)
    customers = [Impatient(bed, name) for name in ("one", "two", "three")]
    served = [0]
    for tick in range(1_100):
        if tick == 600:
            served = [customer.served for customer in customers]
        for number, customer in enumerate(customers):
            if tick < 600 and tick % (20 - 4 * number) == 0:
                for _ in range(5):
                    customer.ask()
        bed.net.run_for(MS)
        for customer in customers:
            customer.look()
    for customer in customers:
        assert len(customer.created) + len(customer.refused) == len(customer.requests)
        assert {error.code for error in customer.refused} <= {ErrorCode.NORES}
        assert set(customer.created) == set(customer.ended_ns)
        waited_ns = [customer.ended_ns[create_id] - at_ns for create_id, at_ns in customer.created.items()]
        assert max(waited_ns) <= 502 * MS
        assert {error.code for error in customer.application.errors} == {ErrorCode.TIMEOUT}
    assert max(served) <= 1.05 * min(served), served
