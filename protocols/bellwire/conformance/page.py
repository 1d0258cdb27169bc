"""One HTML page of a run: every case, and of what failed the messages as a diagram. It needs nothing from anywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from bellwire.conformance import spec
from bellwire.conformance.catalogue import SHOWN, Result, Verdict
from bellwire.conformance.report import summary
from bellwire.conformance.wire import Arrow, brief

_STEP: Final = 30
_LANE: Final = 230
_TOP: Final = 34
_LEFT: Final = 100
_MOST_ARROWS: Final = 80
_MOST_CHARS: Final = 60
_CHAR: Final = 7

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .2em .6em; vertical-align: top; }
tr:nth-child(even) { background: #8881; } .pass { color: #197a35; } .fail { color: #b3261e; font-weight: 600; }
.skip { color: #8a6100; } .informational { color: #00639b; } section { margin: 2em 0; border-top: 1px solid #8886; }
blockquote { border-left: 3px solid #8886; margin: .5em 0; padding-left: 1em; } svg { max-width: 100%; height: auto; }
svg text { font: 12px ui-monospace, monospace; fill: currentColor; } svg .missed text { fill: #b3261e; }
svg line { stroke: currentColor; } svg .life { stroke-dasharray: 3 4; opacity: .4; }
svg .missed line { stroke: #b3261e; stroke-dasharray: 6 4; }
:root { color-scheme: light dark; }
"""


_LEGEND: Final = (
    "<p><small>Diagrams: # is a request's number. Red is what was expected and did not come, and why the case does not pass."
    " Point at a message for its fields.</small></p>\n"
)


def page(profile: str, results: Sequence[Result]) -> str:
    """The page of a run."""
    rows = "".join(_row(result) for result in results)
    shown = [result for result in results if result.verdict in SHOWN]
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Bellwire conformance: {escape(profile)}</title>\n'
        f"<style>{_STYLE}</style>\n<h1>Bellwire conformance: {escape(profile)}</h1>\n<p>{escape(summary(results))}</p>\n"
        f"{_LEGEND if shown else ''}"
        f"{''.join(_story(result) for result in shown)}"
        f"<table>\n<tr><th>case<th>verdict<th>level<th>what is checked<th>seconds\n{rows}</table>\n</html>\n"
    )


def _row(result: Result) -> str:
    case = result.case
    name = f'<a href="#{_anchor(result)}">{result.name}</a>' if result.verdict in SHOWN else result.name
    why = f"<br><small>{escape(result.text)}</small>" if result.verdict is Verdict.SKIP else ""
    return (
        f'<tr><td>{name}<td class="{result.verdict}">{result.verdict}<td>{case.level}'
        f'<td title="{escape(spec.plain(case.requirement))}">{escape(case.title)}{why}<td>{result.seconds:.2f}\n'
    )


def _anchor(result: Result) -> str:
    return result.name.replace(" ", "-")


def _story(result: Result) -> str:
    case = result.case
    doubt = f"<p><em>{escape(result.doubt)}</em></p>\n" if result.doubt else ""
    return (
        f'<section id="{_anchor(result)}">\n<h2 class="{result.verdict}">{result.name}: {escape(case.title)}</h2>\n'
        f"<blockquote>{escape(spec.plain(case.requirement))} <small>({case.level}, {escape(case.rule)})</small></blockquote>\n"
        f"<p>{escape(result.text)}</p>\n{doubt}{diagram(result.trace)}\n</section>\n"
    )


def diagram(trace: Sequence[Arrow]) -> str:
    """Messages as a sequence diagram in SVG, the last ones if they are many. What was expected and did not come is red."""
    arrows = trace[-_MOST_ARROWS:]
    if not arrows:
        return "<p>No message was sent.</p>"
    names = list(dict.fromkeys(name for arrow in arrows for name in (arrow.sender, arrow.receiver)))
    places = {name: _LEFT + _LANE * number for number, name in enumerate(names)}
    width, height = _LEFT + _LANE * len(names), _TOP + _STEP * (len(arrows) + 1)
    parts = [f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="messages">']
    for name, x in places.items():
        parts.append(f'<text x="{x}" y="16" text-anchor="middle">{escape(name)}</text>')
        parts.append(f'<line class="life" x1="{x}" y1="{_TOP - 10}" x2="{x}" y2="{height}"/>')
    for number, arrow in enumerate(arrows):
        y = _TOP + _STEP * (number + 1)
        parts.append(_verdict(arrow, y, width) if arrow.sender == arrow.receiver else _arrow(arrow, y, places))
    return "\n".join([*parts, "</svg>"])


def _verdict(arrow: Arrow, y: int, width: int) -> str:
    """A line across the diagram: here the case was decided."""
    room = (width - _LEFT) // _CHAR
    short = arrow.note if len(arrow.note) <= room else arrow.note[: room - 1] + "…"
    return (
        f'<g class="missed"><title>{escape(arrow.note)}</title><text x="4" y="{y + 4}">{arrow.at_s:.3f} s</text>'
        f'<line x1="{_LEFT}" y1="{y + 6}" x2="{width}" y2="{y + 6}"/><text x="{_LEFT}" y="{y}">{escape(short)}</text></g>'
    )


def _label(arrow: Arrow) -> str:
    """What a message is, as far as a diagram has room for it."""
    fields = arrow.message
    parts = [arrow.label, f"#{fields['request_id']}" if fields.get("request_id") else ""]
    if "part" in fields:
        parts += [str(fields["part"]), str(fields.get("number"))]
    parts += [str(fields["code"])] if fields.get("code") is not None else []
    parts += ["(direct)"] if arrow.direct else []
    return " ".join(filter(None, parts))[:_MOST_CHARS]


def _arrow(arrow: Arrow, y: int, places: dict[str, int]) -> str:
    start, end = places[arrow.sender], places[arrow.receiver]
    tip = end - 7 if end > start else end + 7
    whole = brief(arrow.message, 2_000) if arrow.message else arrow.note
    return (
        f'<g class="{"missed" if arrow.note else "sent"}"><title>{escape(whole)}</title>'
        f'<text x="4" y="{y + 4}">{arrow.at_s:.3f} s</text>'
        f'<line x1="{start}" y1="{y}" x2="{end}" y2="{y}"/>'
        f'<line x1="{tip}" y1="{y - 4}" x2="{end}" y2="{y}"/><line x1="{tip}" y1="{y + 4}" x2="{end}" y2="{y}"/>'
        f'<text x="{(start + end) // 2}" y="{y - 5}" text-anchor="middle">{escape(_label(arrow))}</text></g>'
    )
