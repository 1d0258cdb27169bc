"""One scripted participant: it greets, asks, answers and waits, as a case tells it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from bellwire.conformance import spec
from bellwire.conformance.catalogue import Failed
from bellwire.conformance.wire import Message, brief, encode

if TYPE_CHECKING:
    from bellwire.conformance.lines import Line
    from bellwire.conformance.stage import Stage

VERSION: Final = 1
Answering = Callable[[Message], Message | None]


class Party:
    """A participant that the kit plays. By itself it answers hellos and fences, and sends heartbeats, unless it is told not to.

    `answers` maps types of requests to what makes a reply of them; what has none waits in the inbox for `expect`.
    """

    def __init__(self, stage: Stage, name: str, role: str, epoch: int) -> None:
        self.stage = stage
        self.name = name
        self.role = role
        self.epoch = epoch
        self.up = False
        self.greets = True
        self.beats = True
        self.spoke_s = 0.0
        self.numbers = 0
        self.inbox: list[tuple[bytes, str, Message]] = []
        self.answers: dict[str, Answering] = {}
        self.fences = True
        """Whether it answers fences by itself."""
        self.line: Line | None = None
        """The direct connection that its messages take; without one they go by way of the broker."""
        self.heard: list[tuple[Line | None, Message]] = []
        """Everything of the target's that came, in order, each with the way that it took."""
        self._taken: set[bytes] = set()

    # Sending.

    def number(self) -> int:
        """The next request id of this incarnation."""
        self.numbers += 1
        return self.numbers

    def message(self, kind: str, /, **fields: Any) -> Message:
        """A message with the common fields filled in: both epochs, and a fresh number for a request."""
        whole: Message = {
            "type": kind,
            "epoch": self.epoch,
            "peer_epoch": self.stage.target_epoch,
            "cause_id": f"{self.name}:{kind}",
        }
        schema = spec.schemas().get(kind)
        if schema is not None and schema["x-nature"] == "request" and "request_id" not in fields:
            whole["request_id"] = self.number()
        return whole | fields

    def send(self, kind: str, /, *, to: str = "", **fields: Any) -> Message:
        """Send a message, to the target unless `to` says otherwise, and give what was sent."""
        return self.put(self.message(kind, **fields), to=to)

    def put(self, message: Message, *, to: str = "") -> Message:
        """Send a message as it is."""
        self.stage.transmit(self, to or self.stage.target, message, encode(message))
        return message

    def hello(self, **fields: Any) -> Message:
        """Send a hello, with this party's role and version unless `fields` say otherwise."""
        beat_ns = round(self.stage.times.heartbeat_ms * 1e6)
        known: Message = {
            "versions": [VERSION],
            "role": self.role,
            "capabilities": [],
            "heartbeat_ns": beat_ns,
            "endpoints": [],
            "peer_epoch": 0,
        }
        return self.send("session.hello", **(known | fields))

    def welcome(self, hello: Message, /, **fields: Any) -> Message:
        """Answer a hello of the target."""
        self.up = True
        beat_ns = round(self.stage.times.heartbeat_ms * 1e6)
        known = {
            "version": VERSION,
            "role": self.role,
            "capabilities": [],
            "heartbeat_ns": beat_ns,
            "request_id": hello.get("request_id", 0),
            "peer_epoch": hello.get("epoch", 0),
        }
        return self.send("session.welcome", **(known | fields))

    def reply(self, request: Message, kind: str, /, **fields: Any) -> Message:
        """Answer a request of the target."""
        return self.send(kind, request_id=request["request_id"], **fields)

    def refuse(self, request: Message, code: str, /, **fields: Any) -> Message:
        """Answer a request of the target with an error, which bears 0 when its own number is none."""
        number = request.get("request_id")
        whole: Message = {"request_id": number if type(number) is int else 0, "code": code, "text": "the kit refuses"}
        return self.send("session.error", **(whole | {"rule": "", "peer": ""} | fields))

    # Waiting.

    def take(self, sender: str, message: Message, data: bytes, line: Line | None = None) -> None:
        """Something came for this party, directly or by way of the broker."""
        kind = message.get("type")
        if sender == self.stage.target:
            self.heard.append((line, message))
            if kind == "session.hello" and self.greets:
                self.welcome(message)
            elif kind == "session.welcome":
                self.up = True
            elif kind == "session.fence" and message.get("part") != "end" and self.fences:
                self.send("session.fenced", number=message.get("number"))
            elif self.role == "broker" and self.stage.clock.take(self, message):
                return
        answer = self.answers.get(str(kind))
        if answer is not None:
            made = answer(message)
            if made is not None:
                self.put(made)
        self.inbox.append((data, sender, message))

    def find(self, kinds: tuple[str, ...], fresh: bool, sender: str, match: dict[str, Any]) -> Message | None:
        """Take the first message in the inbox that fits, if there is one."""
        for place, (data, came_from, message) in enumerate(self.inbox):
            fits = not kinds or message.get("type") in kinds
            fits = fits and came_from == sender and all(message.get(name) == value for name, value in match.items())
            if fits and not (fresh and data in self._taken):
                del self.inbox[place]
                self._taken.add(data)
                return message
        return None

    def maybe(
        self, *kinds: str, within_s: float | None = None, fresh: bool = True, sender: str = "", **match: Any
    ) -> Message | None:
        """Wait for a message of one of some types whose fields are as said, and take it; `None` if none comes in time.

        A `fresh` one is no repetition, octet by octet, of one that was taken before.
        """
        who = sender or self.stage.target
        return self.stage.wait(lambda: self.find(kinds, fresh, who, match), within_s)

    def expect(
        self, *kinds: str, within_s: float | None = None, fresh: bool = True, sender: str = "", **match: Any
    ) -> Message:
        """As `maybe`, but it has to come.

        Raises:
            Failed: when it does not, with what came instead.
        """
        found = self.maybe(*kinds, within_s=within_s, fresh=fresh, sender=sender, **match)
        if found is not None:
            return found
        wanted = " or ".join(kinds) or "a message"
        fields = ", ".join(f"{name}={value!r}" for name, value in match.items())
        self.stage.missed(self, f"{wanted} {fields}".strip())
        others = [message for _, _, message in self.inbox if message.get("type") != "session.heartbeat"]
        came = "; ".join(brief(message, 120) for message in others[-3:]) or "nothing"
        raise Failed(f"expected {wanted} {fields} at {self.name}; came: {came}")

    def never(self, *kinds: str, during_s: float, fresh: bool = True, **match: Any) -> None:
        """Wait, and see that no such message comes.

        Raises:
            Failed: when one does.
        """
        found = self.maybe(*kinds, within_s=during_s, fresh=fresh, **match)
        if found is not None:
            raise Failed(f"expected no such message at {self.name}; came: {brief(found)}")

    # What most cases begin with.

    def greet(self, **fields: Any) -> Message:
        """Greet the target and give its welcome. Raises `Failed` when none comes."""
        hello = self.hello(**fields)
        return self.expect("session.welcome", request_id=hello["request_id"])

    def ask(self, kind: str, /, *, within_s: float | None = None, **fields: Any) -> Message:
        """Send a request and give what answers it. Raises `Failed` when nothing does."""
        return self.answer_to(self.send(kind, **fields), within_s=within_s)

    def answer_to(self, request: Message, *, within_s: float | None = None, fresh: bool = True) -> Message:
        """Wait for what answers a request: a reply that is due, or an error. Raises `Failed` when nothing does."""
        schema = spec.schemas().get(request["type"], {})
        kinds = (*schema.get("x-answered-by", ()), "session.error")
        return self.expect(*kinds, within_s=within_s, fresh=fresh, request_id=request["request_id"])

    def refused(self, code: str, kind: str, /, **fields: Any) -> Message:
        """Send a request that has to be refused with a code. Raises `Failed` when it is not."""
        answer = self.ask(kind, **fields)
        if answer["type"] != "session.error" or answer.get("code") != code:
            raise Failed(f"expected {kind} to be refused with {code}; came: {brief(answer)}")
        return answer

    def leave(self) -> None:
        """Say goodbye to the target, and do nothing by itself any more."""
        self.send("session.goodbye", reason="the case is over")
        self.up = self.greets = self.beats = False
