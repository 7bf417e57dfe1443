"""The pages: what a run, or several side by side, come to, put into the templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from easyedit_lifelong.reporting.report import figures, svg
from easyedit_lifelong.reporting.report.axes import Plot
from easyedit_lifelong.reporting.report.comparison import comparison_plots
from easyedit_lifelong.reporting.report.comparison_table import arrow, compare
from easyedit_lifelong.reporting.report.generations import (
    FOLDED,
    SHOWN,
    clean,
    failures,
    side_by_side,
    worst_first,
)
from easyedit_lifelong.reporting.report.names import differing_settings, flat_settings
from easyedit_lifelong.reporting.report.read import Run, intervals_of
from easyedit_lifelong.reporting.report.score_rows import main_names, score_rows, shown, shown_interval
from easyedit_lifelong.reporting.report.style import SERIES
from easyedit_lifelong.versions import __version__

_TEMPLATES = Path(__file__).parent / "templates"
_MOST_POINTS = 60
_TIMES = {
    "seconds_editing": "editing", "seconds_scoring": "scoring", "seconds_io": "reading and writing",
    "seconds_preparing": "preparing the method",
}  # fmt: skip


def run_page(run: Run) -> tuple[str, list[Plot]]:
    """Return the page of one run, and its figures. To be called while :func:`drawing`."""
    sections = {
        "scores": figures.score_plots(run), "codebook": figures.key_plots(run),
        "hooks": figures.hook_plots(run), "time": figures.time_plots(run),
    }  # fmt: skip
    plots = [plot for several in sections.values() for plot in several]
    cases, failed = worst_first(run), failures(run)
    page = _environment().get_template("run.html.j2").render(
        _common(plots), title=f"{run.method} on {run.model}", run=run, sections=sections, facts=_facts(run),
        tiles=_tiles(run), rows=score_rows(run), points=_points(run), is_grace="GRACE" in run.method or
        bool(sections["codebook"]), is_hooked=run.method.startswith("CoachHook") or bool(sections["hooks"]),
        times=_times(run), cases=cases[:SHOWN], folded=cases[SHOWN : SHOWN + FOLDED],
        n_hidden=max(0, len(cases) - SHOWN - FOLDED), n_missed=sum(not case.answer.match for case in cases),
        n_cases=len(cases), failed=failed[:FOLDED], n_failed_hidden=max(0, len(failed) - FOLDED),
        settings=flat_settings(run.config), versions=_versions(run),
    )  # fmt: skip
    return page, plots


def comparison_page(runs: Sequence[Run], names: Sequence[str]) -> tuple[str, list[Plot]]:
    """Return the page of several runs, and its figures. To be called while :func:`drawing`."""
    plots = comparison_plots(runs, names)
    main = compare(runs, names)
    every = list(dict.fromkeys(row.name for run in runs for row in score_rows(run)))
    rest = compare(runs, names, every)
    cases = side_by_side([worst_first(run) for run in runs])
    page = _environment().get_template("comparison.html.j2").render(
        _common(plots), title=f"{len(runs)} runs side by side", runs=list(zip(runs, names, strict=True)),
        plots=plots, main=main, every=rest, arrow=arrow, warnings=_warnings(runs), rows=cases[:SHOWN],
        folded=cases[SHOWN : SHOWN + FOLDED], n_hidden=max(0, len(cases) - SHOWN - FOLDED), n_cases=len(cases),
        settings=differing_settings(runs), versions=_all_versions(runs), n_colours=len(SERIES),
        failed=[(name, failures(run)) for run, name in zip(runs, names, strict=True) if failures(run)],
    )  # fmt: skip
    return page, plots


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["clean"] = clean
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(name: str) -> Markup:
    """Let a long name break where its words end, and nowhere else."""
    return Markup("_<wbr>").join(name.split("_"))


def _common(plots: Sequence[Plot]) -> dict[str, Any]:
    """Return what every page needs."""
    prefixes = {plot.name: f"f{number}" for number, plot in enumerate(plots, 1)}
    draw: Callable[[Plot], Markup] = lambda plot: svg.inline(plot.figure, prefixes[plot.name], clean(plot.alt))  # noqa: E731
    style = (_TEMPLATES / "page.css").read_text(encoding="utf-8")
    return {"css": Markup(style), "draw": draw, "package_version": __version__}


def _facts(run: Run) -> list[str]:
    """Return what a run was, in a few words each."""
    facts = [f"{run.n_edits} edits" + (f" of {run.data}" if run.data else "")]
    protocol, size = run.asked("protocol"), run.asked("batch_size") or run.hparams.get("batch_size")
    if isinstance(protocol, str):
        facts.append(protocol)
    if isinstance(size, int) and size > 1:
        facts.append(f"batches of {size}")
    facts += [f"{run.n_failed} failed"] if run.n_failed else []
    facts += [f"{run.n_skipped} skipped"] if run.n_skipped else []
    when = run.summary.get("finished")
    return [*facts, f"finished {str(when)[:16].replace('T', ' ')} UTC" if when else "not finished"]


def _tiles(run: Run) -> list[dict[str, str]]:
    """Return the numbers that stand at the top."""
    rows = {row.name: row for row in score_rows(run)}
    tiles = [
        {
            "name": name, "value": rows[name].value, "interval": rows[name].interval, "before": rows[name].before,
            "meaning": rows[name].meaning,
        }
        for name in main_names([run])
    ]  # fmt: skip
    seconds = run.timing.get("seconds_per_edit")
    if seconds is not None:
        tiles.append(
            {"name": "seconds an edit", "value": f"{seconds:.2f}", "interval": "", "before": "", "meaning": ""}
        )
    return tiles


def _points(run: Run) -> dict[str, Any]:
    """Return the scores at every evaluation as a table, thinned out if there are very many."""
    names = run.scored_names()
    picked = run.curve
    if len(picked) > _MOST_POINTS:
        step = (len(picked) - 1) / (_MOST_POINTS - 1)
        picked = [picked[round(i * step)] for i in range(_MOST_POINTS)]
    rows = []
    for entry in picked:
        spans = intervals_of(entry)
        cells = [
            (shown(entry[name], name), shown_interval(spans.get(name), name)) if name in entry else ("", "")
            for name in names
        ]
        rows.append((entry["n_edits"], entry.get("sampled"), cells))
    return {"names": names, "rows": rows, "n_hidden": len(run.curve) - len(picked)}


def _times(run: Run) -> list[tuple[str, str, float]]:
    """Return what the time went into: its name, the seconds, and their share of the whole."""
    timing = run.timing
    parts = {text: timing[name] for name, text in _TIMES.items() if timing.get(name)}
    total = timing.get("seconds_total", sum(parts.values()))
    rest = total - sum(parts.values())
    if rest > 0.005 * total:
        parts["the rest"] = rest
    return [(name, _duration(seconds), seconds / total if total else 0.0) for name, seconds in parts.items()]


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _versions(run: Run) -> Mapping[str, Any]:
    versions = run.summary.get("versions")
    return versions if isinstance(versions, dict) else {}


def _all_versions(runs: Sequence[Run]) -> dict[str, list[str]]:
    names = dict.fromkeys(name for run in runs for name in _versions(run))
    return {name: [str(_versions(run).get(name, "-")) for run in runs] for name in names}


def _warnings(runs: Sequence[Run]) -> list[str]:
    """Return what makes runs hard to compare."""
    said = []
    for what, values in (
        ("models", {run.model for run in runs}),
        ("data", {str(run.asked("requests_sha256") or run.data) for run in runs if run.data}),
        ("numbers of edits", {run.n_edits + run.n_failed for run in runs}),
    ):
        if len(values) > 1:
            said.append(what)
    sentences = [f"These runs are of different {' and '.join(said)}: compare them with care."] if said else []
    unfinished = [run.folder.name for run in runs if not run.finished]
    if unfinished:
        sentences.append(f"Not finished: {', '.join(unfinished)}; their last scores so far are shown.")
    return sentences
