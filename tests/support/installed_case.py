"""A pytest plugin that adds the method of an installed plugin to the conformance table.

``CONFORMANCE_CASE=PACKAGE:HYPERPARAMETER_CLASS pytest -p tests.support.installed_case tests/conformance -k NAME`` runs
the table with it. The class needs no values but ``model_name``. ``CONFORMANCE_ACTIVATIONS=no`` says that the method
does not read activations.
"""

from __future__ import annotations

import os
import pkgutil

from tests.conformance.method_cases import CASES, MethodCase

_CLASS = pkgutil.resolve_name(os.environ["CONFORMANCE_CASE"])
_READS_ACTIVATIONS = os.environ.get("CONFORMANCE_ACTIVATIONS") != "no"

CASES.append(MethodCase(_CLASS.ALG_NAME, _CLASS, lambda layout: {}, reads_activations=_READS_ACTIVATIONS))
