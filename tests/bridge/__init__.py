"""Tests of the bridge to EasyEdit."""
