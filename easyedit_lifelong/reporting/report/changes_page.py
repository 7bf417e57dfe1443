"""The page of the changes that edits make to a model's states: heat maps for each prompt."""

from __future__ import annotations

from collections.abc import Sequence

from easyedit_lifelong.locate.restorations import KINDS
from easyedit_lifelong.locate.state_changes import StateChanges
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.report.axes import Plot
from easyedit_lifelong.reporting.report.page import render_page
from easyedit_lifelong.reporting.report.trace_figures import change_map


def changes_page(prompts: Sequence[StateChanges], model: str, edits: str) -> tuple[str, list[Plot]]:
    """Return the page as HTML, and its figures. Call this function within :func:`figure_options`.

    Args:
        prompts: the changes of each prompt.
        model: name of the model.
        edits: name of the edits.
    """
    drawn = [
        [change_map(changes, kind, f"changes-{number}-{kind}") for kind in KINDS if kind in changes.changes]
        for number, changes in enumerate(prompts, 1)
    ]
    plots = [plot for plots_of_prompt in drawn for plot in plots_of_prompt]
    page = render_page(
        "changes.html.j2",
        plots,
        title=f"Where edits change {model}",
        facts=[f"edits of {edits}", counted(len(prompts), "prompt")],
        prompts=list(zip(prompts, drawn, strict=True)),
    )
    return page, plots
