"""A plugin for pytest: our estimators in the place of Pyro's, in tests that Pyro's authors wrote.

Before tests are collected ``Trace_ELBO``, ``TraceGraph_ELBO``, ``TraceMeanField_ELBO`` and ``RenyiELBO`` of
``pyro.infer`` become ours, but with ``--theirs``. Of the tests those are kept that use one of them: by a parameter, or
by name where no parameter is an ELBO.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyro.infer
import pytest

from pyro_aevb import estimators


class DownstreamSGVB(estimators.SGVB):
    """What stands for ``TraceGraph_ELBO``: scores are weighed by what a latent's value can reach."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, downstream=True, **kwargs)


OURS: dict[str, Any] = {
    "Trace_ELBO": estimators.SGVB,
    "TraceGraph_ELBO": DownstreamSGVB,
    "TraceMeanField_ELBO": estimators.SGVBAnalyticKL,
    "RenyiELBO": estimators.Renyi,
}
WHOLE = ("test_conjugate_gradients.py",)
"""Files all of whose tests use one of them, in a method that the tests call."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that leaves Pyro's classes where they are."""
    parser.addoption("--theirs", action="store_true", help="run the same tests with Pyro's own classes")


def pytest_configure(config: pytest.Config) -> None:
    """Put our classes into ``pyro.infer``, from which the tests import theirs."""
    for name, ours in OURS.items() if not config.getoption("--theirs") else ():
        for module in (pyro.infer, pyro.infer.tracegraph_elbo):
            if hasattr(module, name):
                setattr(module, name, ours)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of our classes."""
    config.hook.pytest_deselected(items=[item for item in items if not _is_ours(item)])
    items[:] = [item for item in items if _is_ours(item)]


def _is_ours(item: pytest.Item) -> bool:
    values = list(_values(getattr(getattr(item, "callspec", None), "params", {}).values()))
    if any(_is_elbo(value) for value in values):
        classes = [getattr(pyro.infer, name) for name in OURS]
        return any(_class_of(value) in classes or _names(value) & OURS.keys() for value in values)
    return bool(_names(getattr(item, "function", None)) & OURS.keys()) or item.path.name in WHOLE


def _values(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _values(value)
        else:
            yield value


def _is_elbo(value: Any) -> bool:
    return issubclass(_class_of(value), pyro.infer.ELBO) or any("ELBO" in name for name in _names(value))


def _class_of(value: Any) -> type:
    return value if isinstance(value, type) else type(value)


def _names(function: Any) -> set[str]:
    return set(function.__code__.co_names) if hasattr(function, "__code__") else set()


if __name__ == "__main__":  # pytest, with this as a plugin, in the current folder
    sys.path.insert(0, str(Path.cwd()))
    sys.exit(pytest.main(sys.argv[1:], plugins=[sys.modules["__main__"]]))
