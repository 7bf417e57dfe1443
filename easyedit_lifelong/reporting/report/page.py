"""The HTML pages of one run and of a comparison: collect the values for the templates, and render them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.report import figures, svg
from easyedit_lifelong.reporting.report.axes import Plot
from easyedit_lifelong.reporting.report.comparison import MAX_BANDS, comparison_plots
from easyedit_lifelong.reporting.report.comparison_table import arrow, compare, comparison_tables
from easyedit_lifelong.reporting.report.generations import (
    MAX_FOLDED,
    MAX_SHOWN,
    failures,
    printable,
    side_by_side,
    worst_first,
)
from easyedit_lifelong.reporting.report.history import thinned
from easyedit_lifelong.reporting.report.method_sections import draw_plot, method_sections
from easyedit_lifelong.reporting.report.names import differing_settings, settings_as_text
from easyedit_lifelong.reporting.report.overview import bar, overview_of
from easyedit_lifelong.reporting.report.run_entries import intervals_of, scores_of
from easyedit_lifelong.reporting.report.run_files import RunFiles
from easyedit_lifelong.reporting.report.score_rows import (
    Score,
    format_interval,
    main_names,
    score_rows,
    seconds_row,
    shown,
)
from easyedit_lifelong.reporting.units import duration_text
from easyedit_lifelong.versions import __version__

_TEMPLATES = Path(__file__).parent / "templates"
_MAX_SCORINGS = 60
_TIMES = {
    "seconds_editing": "editing",
    "seconds_scoring": "scoring",
    "seconds_io": "reading and writing",
    "seconds_preparing": "preparing the method",
}


def run_page(run: RunFiles) -> tuple[str, list[Plot]]:
    """Return the page of one run as HTML, and its figures. Call this function within :func:`figure_options`."""
    scores, sections = figures.score_plots(run), method_sections(run)
    times = [draw_plot(plot) for plot in figures.time_plots(run)]
    plots = [*scores, *(plot for _, drawn in sections for plot in drawn), *times]
    cases, failed = worst_first(run), failures(run)
    page = render_page(
        "run.html.j2",
        plots,
        title=f"{run.method} on {run.model}",
        run=run,
        score_plots=scores,
        sections=sections,
        time_plots=times,
        facts=_facts(run),
        tiles=_tiles(run),
        rows=score_rows(run),
        points=_points(run),
        times=_times(run),
        n_missed=sum(not case.answer.match for case in cases),
        n_cases=len(cases),
        failed=failed[:MAX_FOLDED],
        n_failed_hidden=max(0, len(failed) - MAX_FOLDED),
        settings=settings_as_text(run.config),
        **_folded(cases),
    )
    return page, plots


def comparison_page(
    runs: Sequence[RunFiles], names: Sequence[str], warnings: Sequence[str] = ()
) -> tuple[str, list[Plot]]:
    """Return the page that compares runs as HTML, and its figures. Call this function within :func:`figure_options`.

    Args:
        runs: the runs.
        names: their names.
        warnings: sentences to show at the top of the page, in addition to warnings about the runs' differences.
    """
    main, others = comparison_plots(runs, names)
    plots = [*main, *others]
    all_scores = list(dict.fromkeys(row.name for run in runs for row in score_rows(run)))
    packages = dict.fromkeys(name for run in runs for name in run.versions)
    page = render_page(
        "comparison.html.j2",
        plots,
        title=f"{counted(len(runs), 'run')} side by side",
        runs=list(zip(runs, names, strict=True)),
        overview=overview_of(runs, names),
        bar=bar,
        main_plots=main,
        other_plots=others,
        max_bands=MAX_BANDS,
        tables=comparison_tables(runs, names),
        all_scores=compare(runs, names, all_scores),
        arrow=arrow,
        warnings=[*warnings, *_warnings(runs)],
        settings=differing_settings(runs),
        versions={name: [str(run.versions.get(name, "-")) for run in runs] for name in packages},
        failed=[(name, rows) for run, name in zip(runs, names, strict=True) if (rows := failures(run))],
        **_folded(side_by_side([worst_first(run) for run in runs])),
    )
    return page, plots


def _with_code(text: str) -> Markup:
    """Return a text in HTML, with what stands between backticks as code."""
    html = re.sub("`(.+?)`", r"<code>\1</code>", str(escape(text)))
    return Markup(html)  # nosec B704 # the text was escaped before the tags were added


def render_page(template: str, plots: Sequence[Plot], **values: Any) -> str:
    """Render a template with the filters and values that all pages use."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A line can break in a long name only after an underscore.
    environment.filters |= {"clean": printable, "breakable": lambda name: Markup("_<wbr>").join(name.split("_"))}
    environment.filters["code"] = _with_code
    prefixes = {plot.name: f"f{number}" for number, plot in enumerate(plots, 1)}
    css = (_TEMPLATES / "page.css").read_text(encoding="utf-8")
    style = Markup(css)  # nosec B704 # a file of this package
    return environment.get_template(template).render(
        plots=plots,
        css=style,
        package_version=__version__,
        draw=lambda plot: svg.inline(plot.figure, prefixes[plot.name], printable(plot.alt)),
        **values,
    )


def _folded(cases: Sequence[Any]) -> dict[str, Any]:
    """Return the values of a template for cases: those shown, those shown on request, and the number of the rest."""
    hidden = max(0, len(cases) - MAX_SHOWN - MAX_FOLDED)
    return {"cases": cases[:MAX_SHOWN], "folded": cases[MAX_SHOWN : MAX_SHOWN + MAX_FOLDED], "n_hidden": hidden}


def _facts(run: RunFiles) -> list[str]:
    """Return short facts about a run for the head of its page, such as ``batches of 10``."""
    facts = [counted(run.n_edits, "edit") + (f" of {run.data}" if run.data else "")]
    protocol, size = run.setting("protocol"), run.setting("batch_size") or run.hparams.get("batch_size")
    if isinstance(protocol, str):
        facts.append(protocol)
    if isinstance(size, int) and size > 1:
        facts.append(f"batches of {size}")
    if run.n_sampled is not None:
        facts.append(f"scores of a sample of {run.n_sampled} (ES: of all)")
    facts += [f"{run.n_failed} failed"] if run.n_failed else []
    facts += [f"{run.n_skipped} skipped"] if run.n_skipped else []
    facts += [run.machine] if run.machine else []
    when = run.summary.get("finished")
    return [*facts, f"finished {str(when)[:16].replace('T', ' ')} UTC" if when else "not finished"]


def _tiles(run: RunFiles) -> list[Score]:
    """Return the main scores and the time per edit, for the tiles at the top of the page."""
    rows = {row.name: row for row in score_rows(run)}
    return [*(rows[name] for name in main_names([run])), *seconds_row(run)]


def _points(run: RunFiles) -> dict[str, Any]:
    """Return the scores of all scorings as a table; if there are very many, of evenly spaced ones."""
    names = run.scored_names()
    entries = thinned(run.curve, _MAX_SCORINGS)
    rows = []
    for entry in entries:
        intervals = intervals_of(entry)
        scores = scores_of(entry, names)
        cells = [(shown(scores.get(name), name), format_interval(intervals.get(name), name)) for name in names]
        rows.append((entry["n_edits"], entry.get("sampled"), cells))
    return {"names": names, "rows": rows, "n_hidden": len(run.curve) - len(entries)}


def _times(run: RunFiles) -> list[tuple[str, str, float]]:
    """Return the parts of the run's time: name, duration as text, share of the total."""
    timing = run.timing
    parts = {text: timing[name] for name, text in _TIMES.items() if timing.get(name)}
    total = timing.get("seconds_total", sum(parts.values()))
    rest = total - sum(parts.values())
    if rest > 0.005 * total:
        parts["other"] = rest
    return [(name, duration_text(seconds), seconds / total if total else 0.0) for name, seconds in parts.items()]


def _warnings(runs: Sequence[RunFiles]) -> list[str]:
    """Return warnings about differences that make runs hard to compare."""
    compared: dict[str, set[Any]] = {
        "models": {(run.model, run.setting("weights")) for run in runs},
        "data": {str(run.setting("requests_sha256") or run.data) for run in runs if run.data},
        "numbers of edits": {run.n_edits + run.n_failed for run in runs},
        "protocols": {run.is_single_round for run in runs},
    }
    different = " and ".join(name for name, values in compared.items() if len(values) > 1)
    unfinished = ", ".join(run.folder.name for run in runs if not run.finished)
    sentences = [f"These runs have different {different}: compare them with care."] if different else []
    if len(machines := dict.fromkeys(run.machine for run in runs if run.machine)) > 1:
        sentences.append(f"These runs' machines differ ({'; '.join(machines)}): don't compare their times.")
    return sentences + ([f"Not finished: {unfinished}; their last scores so far are shown."] if unfinished else [])
