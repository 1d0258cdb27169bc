"""What the kit shows: verdicts, JSON, JUnit XML, and a page with diagrams that nothing a target sends can break."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import msgpack
import pytest

from bellwire.conformance.catalogue import Case, Level, Result, Role, Verdict
from bellwire.conformance.page import diagram, page
from bellwire.conformance.report import as_json, counts, junit, line, summary
from bellwire.conformance.watch import EVERY_FIELD, NUMBERS, SAME_OCTETS, Watch
from bellwire.conformance.wire import Arrow, NoMessage, brief, decode, encode


def case(number: int, run: Any = None, level: Level = Level.MUST) -> Case:
    def passes(_: object) -> None:
        """Nothing is wrong."""

    return Case(
        id=f"SESS-4.1-0{number}",
        level=level,
        requirement="**Words** & `code`",
        roles=frozenset({Role.NODE}),
        title="A <b>title</b>",
        run=run or passes,
    )


EVIL = "came: <script>alert(1)</script> \x07 & more"
RESULTS = [
    Result(case=case(1), verdict=Verdict.PASS, seconds=0.5),
    Result(
        case=case(2),
        verdict=Verdict.FAIL,
        text=EVIL,
        trace=[
            Arrow(
                at_s=0.1, sender="kit-app", receiver="kit-target", message={"type": "session.hello", "request_id": 3}
            ),
            Arrow(at_s=0.2, sender="kit-target", receiver="kit-app", message={"type": "<b>", "code": "STALE"}),
            Arrow(at_s=0.3, sender="kit-target", receiver="kit-app", note="expected: session.welcome"),
        ],
    ),
    Result(case=case(3), verdict=Verdict.SKIP, text="needs --start"),
    Result(case=case(4, level=Level.SHOULD), verdict=Verdict.INFORMATIONAL, text="four came"),
]


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


def test_results_are_counted_by_verdict() -> None:
    assert counts(RESULTS) == {"pass": 1, "fail": 1, "skip": 1, "informational": 1}
    assert summary(RESULTS) == "1 pass, 1 fail, 1 skip, 1 informational in 0.5 s"


def test_junit_has_a_testcase_for_each_with_failures_and_skips() -> None:
    root = ElementTree.fromstring(junit("node", RESULTS))
    [suite] = root
    for counted in (root, suite):
        assert {name: counted.get(name) for name in ("tests", "failures", "skipped")} == {
            "tests": "4",
            "failures": "1",
            "skipped": "1",
        }
    assert [[child.tag for child in each] for each in suite] == [[], ["failure"], ["skipped"], ["system-out"]]
    assert "alert(1)" in str(suite[1][0].get("message"))
    assert suite[1][0].get("type") == "MUST"


def test_json_says_what_every_case_requires_and_what_came() -> None:
    told = as_json("node", RESULTS)
    assert told["seconds"] == 0.5
    assert told["cases"][1] == {
        "id": "SESS-4.1-02",
        "round": 0,
        "level": "MUST",
        "rule": "1 §4.1",
        "requirement": "Words & `code`",
        "verdict": "fail",
        "text": EVIL,
        "seconds": 0.0,
        "late_s": 0.0,
    }


def test_kit_that_stood_still_says_so_of_what_does_not_pass_in_every_report_and_changes_no_verdict() -> None:
    late = [Result(case=each.case, verdict=each.verdict, text=each.text, late_s=0.25) for each in RESULTS]
    assert [bool(result.doubt) for result in late] == [False, True, False, True]
    assert counts(late) == counts(RESULTS)
    assert "0.25 s" in line(late[1])
    assert as_json("node", late)["cases"][1]["late_s"] == 0.25
    [suite] = ElementTree.fromstring(junit("node", late))
    assert ["0.25 s" in "".join(each.itertext()) for each in suite] == [False, True, False, True]
    assert page("node", late).count("0.25 s") == 2
    assert not any(result.doubt for result in RESULTS)


def test_page_shows_messages_of_what_failed_and_takes_nothing_as_markup() -> None:
    text = page("node", RESULTS)
    tags = Tags(text).tags
    assert "script" not in tags
    assert "b" not in tags
    assert tags.count("svg") == 1
    ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    assert "expected: session.welcome" in text
    assert "session.hello #3" in text
    assert "src=" not in text
    assert 'href="http' not in text


def test_results_of_several_rounds_have_names_and_anchors_of_their_own() -> None:
    rounds = [replace(result, round=number) for number in (1, 2) for result in RESULTS]
    suites = ElementTree.fromstring(junit("node", rounds))
    assert [(suite.get("name"), suite.get("tests")) for suite in suites] == [
        ("bellwire conformance node, round 1", "4"),
        ("bellwire conformance node, round 2", "4"),
    ]
    names = [each.get("name") for suite in suites for each in suite]
    assert len(set(names)) == len(rounds)
    assert "SESS-4.1-02 in round 2: A <b>title</b>" in names
    text = page("node", rounds)
    anchors = re.findall(r'id="([^"]+)"', text)
    assert len(set(anchors)) == len(anchors) == 4
    assert {link[1:] for link in re.findall(r'href="([^"]+)"', text)} == set(anchors)
    assert [each["round"] for each in as_json("node", rounds)["cases"]] == [1] * 4 + [2] * 4


def test_diagram_of_many_messages_shows_the_last_ones() -> None:
    arrows = [Arrow(at_s=n, sender="a", receiver="b", message={"type": f"t.n{n}"}) for n in range(200)]
    text = diagram(arrows)
    assert "t.n199" in text
    assert "t.n100" not in text
    assert diagram([]) == "<p>No message was sent.</p>"


def test_diagram_has_a_line_where_the_case_was_decided() -> None:
    text = diagram([Arrow(at_s=0.3, sender="t", receiver="t", note="expected <a>; " + "came: b, " * 50)])
    ElementTree.fromstring(text)
    assert "expected &lt;a&gt;" in text
    assert "…" in text


def test_diagram_tells_fences_and_direct_connections_apart() -> None:
    fence = {"type": "session.fence", "part": "begin", "number": 7}
    assert ">session.fence begin 7 (direct)<" in diagram(
        [Arrow(at_s=0.1, sender="a", receiver="b", message=fence, direct=True)]
    )


@pytest.mark.parametrize(
    "data",
    [b"", b"\x07", b"\x91\xc0", b"\x80\xc0", b"\x82\xa1a\x01\xa1a\x02", b"\x81\x01\x02", b"\xc1", b"\x91" * 5000],
)
def test_octets_that_are_no_message_are_said_to_be_none(data: bytes) -> None:
    with pytest.raises(NoMessage):
        decode(data)


def test_message_comes_back_as_it_was() -> None:
    message = {"type": "session.ack", "x": [1, None, {"y": 2.5}], "z": "é"}
    assert decode(encode(message)) == message
    assert encode(message) == msgpack.packb(message)
    assert brief({"type": "t.x", "text": "y" * 500}).endswith("…")


def seen(*messages: dict[str, Any]) -> Watch:
    watch = Watch()
    for message in messages:
        watch.see(message, encode(message), "kit-app")
    return watch


def hello(**fields: Any) -> dict[str, Any]:
    known = {"type": "session.hello", "epoch": 1, "peer_epoch": 0, "cause_id": "", "request_id": 1, "versions": [1]}
    return known | {"role": "agent", "capabilities": [], "heartbeat_ns": 1, "endpoints": []} | fields


def test_watch_of_sound_messages_notes_nothing() -> None:
    assert not seen(hello(), hello(), hello(request_id=2), hello(epoch=2)).broken


def test_watch_notes_what_every_message_has_to_keep() -> None:
    without = {name: value for name, value in hello().items() if name != "capabilities"}
    assert set(seen(without).broken) == {EVERY_FIELD}
    assert set(seen(hello(), hello(versions=[1, 2])).broken) == {SAME_OCTETS}
    ask = {"type": "link.err", "epoch": 1, "peer_epoch": 2, "cause_id": "", "request_id": 1}
    assert set(seen(hello(), ask | {"create_id": "x", "code": "OTHER", "text": ""}).broken) == {NUMBERS}
    assert set(seen(hello(heartbeat_ns=1.0)).broken) == {"CORE-3.1-03"}
    assert set(seen({"type": "no.such"}).broken) == {"CORE-3.5-09"}
    assert set(seen(hello(epoch=0)).broken) == {"CORE-3.2-01"}
