"""Some seconds of ``fuzz.py``; hours of it are for the command line."""

import logging

import pytest

from tests import fuzz


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # of what torch thinks of the files, and of numbers too large
def test_damaged_and_made_up_files_are_refused_or_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("pyro_aevb.states"), "disabled", True)  # a line for each state of old
    tried = fuzz.go_through(seed=0, count=15)
    assert sum(total for total, _ in tried.values()) == 15 * sum(fuzz.TARGETS.values())
    assert all(refused for _, refused in tried.values()), fuzz.table(tried)
