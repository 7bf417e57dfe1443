"""Methods that write answers into a table, registered for one test, and the models that they edit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from easyedit_lifelong.plugins import get_plugins
from tests.support import ledger_method
from tests.support.diary_method import Diary, DiaryPlugin, initial_table
from tests.support.ledger_method import Ledger, ledger_table
from tests.support.table_model import TableModel


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """The method LEDGER, for the consecutive loop."""
    plugin, plugins = ledger_method.Plugin(), get_plugins()
    plugins.add(plugin, "test-ledger")
    plugin.ledger.notebook = plugin.notebook
    yield plugin.ledger
    plugins.remove("test-ledger")


@pytest.fixture
def table() -> TableModel:
    """The model that LEDGER edits."""
    return ledger_table()


@pytest.fixture
def diary() -> Iterator[Diary]:
    """The method DIARY, for the lifelong loop."""
    plugin, plugins = DiaryPlugin(), get_plugins()
    plugins.add(plugin, "test-diary")
    yield plugin.diary
    plugins.remove("test-diary")


@pytest.fixture
def diary_table() -> TableModel:
    """The model that DIARY edits."""
    return initial_table()
