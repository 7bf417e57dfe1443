"""The plot of a scope study."""

from __future__ import annotations

from xml.etree import ElementTree

from easyedit_lifelong.evaluation.scope import PARAPHRASE, PROMPT, ScopeStudy
from easyedit_lifelong.reporting.scope_plot import scope_svg
from tests.support.scope_rows import NAN, SCOPE, row


def test_the_plot_has_a_dot_for_every_z_score_with_a_position() -> None:
    tree = ElementTree.fromstring(scope_svg(SCOPE))
    name = "{http://www.w3.org/2000/svg}"
    groups = {group.get("id"): group for group in tree.iter(f"{name}g")}
    dots = {
        f"{kind}-{which}": list(groups[f"{kind}-{which}"].iter(f"{name}use"))
        for kind in (PROMPT, PARAPHRASE)
        for which in ("subject", "others")
    }
    # NaN, and texts without the subject, have no position in the plot.
    assert {which: len(group) for which, group in dots.items()} == {
        "prompt-subject": 2,
        "prompt-others": 4,
        "paraphrase-subject": 1,
        "paraphrase-others": 2,
    }
    width, height = (float(side) for side in tree.get("viewBox", "").split()[2:])
    all_dots = [dot for group in dots.values() for dot in group]
    assert all(0 < float(dot.get("x", 0)) < width and 0 < float(dot.get("y", 0)) < height for dot in all_dots)
    assert all(list(groups[f"{kind}-mean"].iter(f"{name}path")) for kind in (PROMPT, PARAPHRASE))
    texts = [text.text for text in tree.iter(f"{name}text")]
    assert texts.count("alpha 1.50") == 2
    assert {"prompts", "paraphrases", f"z-scores at {SCOPE.module}"} <= set(texts)
    # A higher z-score is drawn higher: the subjects have 2.0 and 1.0.
    upper, lower = (float(dot.get("y", 0)) for dot in dots["prompt-subject"])
    assert upper < lower
    only_nan = ScopeStudy("<m&>", 0.0, (row(PROMPT, [NAN], 0),), threshold=0.0)
    ElementTree.fromstring(scope_svg(only_nan))
    assert scope_svg(SCOPE) == scope_svg(SCOPE), "two plots of one study differ"
