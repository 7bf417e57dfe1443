"""Second moments of keys: collect them in one pass over a corpus, store and merge them, and read MEMIT's files."""

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
