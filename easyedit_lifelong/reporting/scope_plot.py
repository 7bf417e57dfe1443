"""The scope study's plot: z-scores around the subject's last token, as an SVG file that any browser shows."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from easyedit_lifelong.evaluation.metrics import mean
from easyedit_lifelong.evaluation.scope import PARAPHRASE, PROMPT, Scope, ScopeRow, finite

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP, _BOTTOM = 420, 260, 48, 48, 40, 44
_REACH = 12
"""Tokens shown on either side of the subject's last one."""
_GREY, _BLUE, _RED = "#9aa0a6", "#1a73e8", "#d93025"


def scope_svg(scope: Scope) -> str:
    """Return the plot: one panel for prompts and one for paraphrases.

    Each dot is a token of a text, at its distance from the subject's last token; the line is the mean at
    each distance, and the dashed line is α, from which on the hook acts.
    """
    panels = [(kind, _points(rows)) for kind in (PROMPT, PARAPHRASE) if (rows := scope.of(kind))]
    values = [z for _, points in panels for _, z in points] + [scope.alpha]
    low, high = min(values), max(values)
    room = 0.08 * (high - low or 1.0)
    axis = _Axis(low - room, high + room)
    width = _LEFT + len(panels) * (_WIDTH + _GAP)
    height = _TOP + _HEIGHT + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="18" font-size="14">z-scores at {escape(scope.module)}</text>',
    ]
    for number, (kind, points) in enumerate(panels):
        parts += _panel(_LEFT + number * (_WIDTH + _GAP), kind, points, scope.alpha, axis)
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Axis:
    """The vertical axis, in z-scores."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def y(self, z: float) -> float:
        return _TOP + _HEIGHT * (self.high - z) / (self.high - self.low)

    def ticks(self) -> list[int]:
        step = max(1, round((self.high - self.low) / 6))
        return [z for z in range(int(self.low) - 1, int(self.high) + 2) if z % step == 0 and self.low <= z <= self.high]


def _points(rows: Sequence[ScopeRow]) -> list[tuple[int, float]]:
    """Return (distance from the subject's last token, z-score) of every token in reach."""
    return [
        (index - row.subject, z)
        for row in rows
        if row.subject is not None
        for index, z in enumerate(row.z)
        if abs(index - row.subject) <= _REACH and finite([z])
    ]


def _x(left: float, distance: int) -> float:
    return left + _WIDTH * (distance + _REACH + 0.5) / (2 * _REACH + 1)


def _panel(left: int, kind: str, points: Sequence[tuple[int, float]], alpha: float, axis: _Axis) -> list[str]:
    right, bottom = left + _WIDTH, _TOP + _HEIGHT
    parts = [
        f'<text x="{left}" y="{_TOP - 10}">{kind}s</text>',
        f'<rect x="{left}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#dadce0"/>',
    ]
    for tick in axis.ticks():
        parts.append(f'<text x="{left - 6}" y="{axis.y(tick) + 4:.1f}" text-anchor="end">{tick}</text>')
    for distance in range(-_REACH, _REACH + 1, 4):
        parts.append(f'<text x="{_x(left, distance):.1f}" y="{bottom + 16}" text-anchor="middle">{distance:+d}</text>')
    parts.append(
        f'<text x="{left + _WIDTH / 2}" y="{bottom + 34}" text-anchor="middle">tokens after the subject\'s last</text>'
    )
    for distance, z in points:
        colour = _RED if distance == 0 else _GREY
        parts.append(
            f'<circle cx="{_x(left, distance):.1f}" cy="{axis.y(z):.1f}" r="2.4" fill="{colour}" fill-opacity="0.45"/>'
        )
    means = [(d, mean(z for other, z in points if other == d)) for d in sorted({d for d, _ in points})]
    line = " ".join(f"{_x(left, d):.1f},{axis.y(z):.1f}" for d, z in means if z is not None)
    parts += [
        f'<polyline points="{line}" fill="none" stroke="{_BLUE}" stroke-width="2"/>',
        f'<line x1="{left}" x2="{right}" y1="{axis.y(alpha):.1f}" y2="{axis.y(alpha):.1f}" stroke="black" '
        'stroke-dasharray="5 4"/>',
        f'<text x="{right - 6}" y="{axis.y(alpha) - 5:.1f}" text-anchor="end">alpha {alpha:.2f}</text>',
    ]
    return parts
