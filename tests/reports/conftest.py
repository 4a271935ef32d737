"""Runs that all tests of reports look at, and none changes: one that does copies them first."""

import pytest

from tests.reports import made


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return made.make_runs(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    return made.make_tables(tmp_path_factory.mktemp("tables"))
