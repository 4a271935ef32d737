"""The reference, made from the package itself: a page for each module, an entry for each name of its ``__all__``.

A name that several modules offer is described once, where it comes first in :data:`PUBLIC`; elsewhere an entry leads
there. So that each name can be linked to and found, all of them stand in ``objects.inv``.
"""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import command_line
from sphinx.application import Sphinx

import pyro_aevb

PUBLIC = (
    "pyro_aevb",
    "pyro_aevb.priors",
    "pyro_aevb.priors.base",
    "pyro_aevb.likelihoods",
    "pyro_aevb.likelihoods.base",
    "pyro_aevb.guides",
    "pyro_aevb.guides.base",
    "pyro_aevb.estimators",
    "pyro_aevb.estimators.base",
    "pyro_aevb.sgvb",
    "pyro_aevb.optimizers",
    "pyro_aevb.nn",
    "pyro_aevb.distributions",
    "pyro_aevb.data",
    "pyro_aevb.training",
    "pyro_aevb.evidence",
    "pyro_aevb.diagnostics",
    "pyro_aevb.bayesian",
    "pyro_aevb.hmc",
    "pyro_aevb.predictions",
    "pyro_aevb.plots",
    "pyro_aevb.runs",
    "pyro_aevb.reports",
    "pyro_aevb.explorer",
    "pyro_aevb.sklearn",
    "pyro_aevb.arviz",
    "pyro_aevb.trackers",
    "pyro_aevb.export",
    "pyro_aevb.views",
    "pyro_aevb.testing",
    "pyro_aevb.errors",
    "pyro_aevb.seeds",
)
"""The modules that a user meets, in the order in which the reference has them."""


def modules() -> Iterator[ModuleType]:
    """All modules with an ``__all__``: the public ones, then those behind them."""
    found = [info.name for info in pkgutil.walk_packages(pyro_aevb.__path__, "pyro_aevb.")]
    behind = [name for name in found if name not in PUBLIC and not name.endswith("__main__")]
    for name in (*PUBLIC, *behind):
        module = importlib.import_module(name)
        if getattr(module, "__all__", None) is not None:
            yield module


def _directive(value: Any) -> str:
    """Which directive of autodoc describes a value."""
    if isinstance(value, type):
        return "autoexception" if issubclass(value, BaseException) else "autoclass"
    return "autofunction" if inspect.isroutine(value) else "autodata"


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("pyro_aevb")


def _members(value: Any) -> str:
    """Options that describe a class's own methods, and those of bases which have no entry of their own to read."""
    if not isinstance(value, type):
        return ""
    bases = value.__mro__[1:]
    others = [base.__name__ for base in bases if base.__module__ in PUBLIC or not _is_ours(base)]
    return f"   :members:\n   :show-inheritance:\n   :inherited-members: {', '.join(others)}\n"


def _home_of(module: ModuleType, name: str) -> str:
    """Where users import a name from: the contract of a family, in its ``base``, from the family itself."""
    parent, _, last = module.__name__.rpartition(".")
    if last != "base":
        return module.__name__
    family = sys.modules[parent]
    is_offered = getattr(family, name, None) is getattr(module, name)
    described_there = name in getattr(family, "__all__", ())
    return parent if is_offered and not described_there else module.__name__


def _entry(module: ModuleType, name: str, homes: dict[tuple[str, int], str]) -> str:
    """What describes one name of a module, or leads to where it is described."""
    value = getattr(module, name)
    full = f"{_home_of(module, name)}.{name}"
    if isinstance(value, ModuleType):
        return f":mod:`{value.__name__}`\n"
    home = homes.setdefault((name, id(value)), full)  # equal numbers are one object, with two names
    if home == full:
        return f".. {_directive(value)}:: {full}\n{_members(value)}"
    if isinstance(value, type) and f"{value.__module__}.{value.__qualname__}" == full:
        return ""  # autodoc enters a class by the place where it is written as well
    return f".. py:data:: {name}\n\n   The same as :py:obj:`{home}`.\n"  # its module is the current one


def _page(module: ModuleType, homes: dict[tuple[str, int], str]) -> str:
    entries = [_entry(module, name, homes) for name in module.__all__]
    title = module.__name__
    options = "   :no-members:\n"
    if title in homes.values():  # a function of the same name, which the package offers in the module's place
        options += "   :no-index:\n"
    head = f"{title}\n{'=' * len(title)}\n\n.. automodule:: {title}\n{options}\n.. currentmodule:: {title}\n"
    return "\n".join([head, *(entry for entry in entries if entry)])


def _index(title: str, introduction: str, names: list[str], further: str = "") -> str:
    """A page that leads to modules, each with the first sentence of its docstring."""
    lines = []
    for name in names:
        first = (inspect.getdoc(importlib.import_module(name)) or "").split("\n\n")[0]
        lines.append(f"* :doc:`{name} <{name}>`: {' '.join(first.split())}")
    tree = [".. toctree::", "   :hidden:", "", *(f"   {name}" for name in names), f"   {further}" if further else ""]
    return "\n".join([title, "=" * len(title), "", introduction, "", *lines, "", *tree, ""])


def write_pages(app: Sphinx) -> None:
    """Write ``reference/api``, replacing only what changed, so that Sphinx reads anew only that."""
    folder = Path(app.srcdir) / "reference" / "api"
    folder.mkdir(parents=True, exist_ok=True)
    homes: dict[tuple[str, int], str] = {}
    pages = {f"{module.__name__}.rst": _page(module, homes) for module in modules()}
    names = [name.removesuffix(".rst") for name in pages]
    behind = [name for name in names if name not in PUBLIC]
    more = "What stands behind these modules, for those who change the library: :doc:`behind`."
    pages["index.rst"] = _index("Modules", f"What a user meets. {more}", list(PUBLIC), "behind")
    told = "The modules behind the public ones, for those who change the library. Names here may change with a version."
    pages["behind.rst"] = _index("Behind the public modules", told, behind)
    for stale in {path.name for path in folder.iterdir()} - set(pages):
        (folder / stale).unlink()
    pages["../command_line.rst"] = command_line.page()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def as_written(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Keep a value's docstring as it is: Napoleon would read what stands before its first colon as a type.

    A constant or an alias of a type that has none would be given its type's, which says nothing of it.
    """
    types = (type(value), getattr(value, "__origin__", None))
    if " ".join(lines).split() in [(inspect.getdoc(each) or "").split() for each in types]:
        lines.clear()
    if what in ("attribute", "property", "data"):
        lines[:0] = ["..", ""]  # an empty comment


def public_bases(app: Sphinx, name: str, value: Any, options: Any, bases: list[Any]) -> None:
    """Leave out of a class's bases what a reader could not look up."""
    bases[:] = [base for base in bases if not getattr(base, "__name__", "").startswith("_")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", as_written, priority=400)  # before Napoleon's 500
    app.connect("autodoc-process-bases", public_bases)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
