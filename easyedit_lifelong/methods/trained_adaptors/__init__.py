"""Defer and Memory network, baselines of GRACE (arXiv 2211.11031): trained modules that replace a layer's output."""
