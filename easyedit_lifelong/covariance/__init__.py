"""Second moments of keys: collect them in one pass over a corpus, store and merge them, and read MEMIT's files.

The functions are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from easyedit_lifelong.lazy_names import lazy_names

_LAZY = {
    "merge_moments": "easyedit_lifelong.covariance.derive",
    "moments_file": "easyedit_lifelong.covariance.moment_paths",
    "SecondMoment": "easyedit_lifelong.covariance.moments",
    "regularisation": "easyedit_lifelong.covariance.moments",
    "collect_covariance": "easyedit_lifelong.covariance.obtain",
    "obtain_moments": "easyedit_lifelong.covariance.obtain",
}

if TYPE_CHECKING:
    from easyedit_lifelong.covariance.derive import merge_moments
    from easyedit_lifelong.covariance.moment_paths import moments_file
    from easyedit_lifelong.covariance.moments import SecondMoment, regularisation
    from easyedit_lifelong.covariance.obtain import collect_covariance, obtain_moments

__all__ = [
    "SecondMoment",
    "collect_covariance",
    "merge_moments",
    "moments_file",
    "obtain_moments",
    "regularisation",
]

__getattr__, __dir__ = lazy_names(__name__, _LAZY)
