"""What is imported when: usage and versions without torch, the package without what only some functions need."""

import ast
import importlib
import pickle
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_aevb as aevb
from pyro_aevb.cli import COMMANDS
from tests.commands import run_alone

LIBRARIES = {"torch", "pyro", "numpy", "matplotlib", "jsonargparse"}
SLOW = {"scipy", "sklearn", "pandas", "matplotlib", "torchvision", "arviz_stats", "narwhals", "jsonargparse", "yaml"}
"""Libraries that only some functions need, each of which imports them where it does."""

EVERYDAY = ("Trainer", "GenerativeModel", "priors", "likelihoods", "guides", "estimators", "evidence", "data")
"""Names that the example at the head of the package uses."""


def loaded_by(program):
    """Which top-level modules a program leaves imported, in a process of its own, and what else it printed."""
    told = f"{program}\nimport sys; print('|', *sorted(name for name in sys.modules if '.' not in name))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed, _, modules = done.stdout.rpartition("|")
    return set(modules.split()), printed, done.stderr


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("words", "code"), [(["--help"], 0), (["-h"], 0), ([], 2), (["--version"], 0), (["lst"], 2), (["--hlep"], 2)]
)
def test_the_command_line_answers_without_the_libraries(words, code):
    loaded, printed, errors = loaded_by(f"from pyro_aevb.cli import main\nassert main({words}) == {code}")
    assert printed or errors
    assert not loaded & LIBRARIES


def test_what_an_unknown_command_is_told_is_what_it_was():
    *_, errors = loaded_by("from pyro_aevb.cli import main\nmain(['lst'])")
    assert errors.startswith("pyro-aevb: unknown command 'lst': did you mean list? give one of train, sweep, evaluate")


def test_the_module_starts_without_the_libraries_too(tmp_path):
    """And without the current folder, where a file could stand for one of them."""
    (tmp_path / "logging.py").write_text("raise SystemExit('a stranger runs')\n")
    words = [sys.executable, "-X", "importtime", "-m", "pyro_aevb", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: pyro-aevb")
    assert not set(re.findall(r"\|\s+(\w+)$", done.stderr, re.MULTILINE)) & LIBRARIES


def test_lists_draw_nothing():
    loaded, printed, _ = loaded_by("from pyro_aevb.cli import main\nassert main(['list']) == 0")
    assert "StandardNormal" in printed
    assert not loaded & (SLOW - {"jsonargparse", "yaml"})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_function(command):
    place, summary = COMMANDS[command]
    assert callable(pkgutil.resolve_name(f"pyro_aevb.cli.{place}"))
    assert summary


def test_what_a_library_tries_to_import_is_not_found_in_the_current_folder(tmp_path):
    """Where the user's own part lies there, that folder stands last on the path: all libraries are imported before."""
    (tmp_path / "own_parts.py").write_text("")
    program = (
        f"import os, sys\nos.chdir({str(tmp_path)!r})\nsys.path = [each for each in sys.path if each]\n"
        "late = set()\n"
        "class Noting:\n"
        "    def find_spec(name, *more):\n"
        f"        if {str(tmp_path)!r} in sys.path: late.add(name.partition('.')[0])\n"
        "sys.meta_path.insert(0, Noting)\n"
        "from pyro_aevb.cli import main\n"
        "assert main(['train', '--prior.help', 'own_parts.Prior']) == 2\n"
        "print(sorted(late - sys.stdlib_module_names))\n"
    )
    assert loaded_by(program)[1:] == ("['own_parts']\n", "pyro-aevb: --prior own_parts.Prior: own_parts has no Prior\n")


# ---------------------------------------------------------------- the package


def test_the_package_alone_imports_no_library():
    loaded, *_ = loaded_by("import pyro_aevb\nassert pyro_aevb.__version__ and dir(pyro_aevb)")
    assert not loaded & LIBRARIES


def test_everyday_names_import_only_what_they_need():
    loaded, *_ = loaded_by(f"import pyro_aevb as aevb\nfor name in {EVERYDAY}: getattr(aevb, name)")
    assert {"torch", "pyro"} <= loaded
    assert not loaded & SLOW


def imports_for_type_checkers():
    """Each name that type checkers see the package import, and the module it comes from."""
    tree = ast.parse(Path(aevb.__file__).read_text())
    block = next(each for each in tree.body if isinstance(each, ast.If) and ast.unparse(each.test) == "TYPE_CHECKING")
    imports = [each for each in block.body if isinstance(each, ast.ImportFrom)]
    return {alias.name: each.module for each in imports for alias in each.names}


@pytest.mark.parametrize("name", aevb.__all__)
def test_type_checkers_see_what_is_there(name):
    module = imports_for_type_checkers()[name]
    room = importlib.import_module(f"{module}.{name}" if module == "pyro_aevb" else module)
    assert getattr(aevb, name) is (room if module == "pyro_aevb" else getattr(room, name))


def test_type_checkers_see_no_more():
    assert sorted(imports_for_type_checkers()) == aevb.__all__


def test_names_of_a_fresh_package():
    """All that was there when the package imported everything at once, by every way of importing."""
    run_alone(
        "import pyro_aevb as aevb\n"
        "from pyro_aevb import *\n"
        "assert {*aevb.__all__, '__version__'} <= set(dir(aevb))\n"
        "assert all(globals()[name] is getattr(aevb, name) for name in aevb.__all__)\n"
        "for room in 'conditions distributions errors evaluation files hardware models pairs seeds training'.split():\n"
        "    assert getattr(aevb, room).__name__ == f'pyro_aevb.{room}'\n"
    )
    run_alone(
        "import pyro_aevb.priors\n"
        "from pyro_aevb import Trainer as one\n"
        "from pyro_aevb.training.trainer import Trainer as other\n"
        "assert one is other and pyro_aevb.priors.StandardNormal(2).latent_dim == 2\n"
    )


@pytest.mark.parametrize("name", ["Trainr", "trainer", "_trainer", "__wrapped__", "__path_to__"])
def test_a_name_that_is_not_there_is_refused(name):
    assert not hasattr(aevb, name)
    with pytest.raises(AttributeError, match=f"module 'pyro_aevb' has no attribute '{name}'"):
        getattr(aevb, name)
    with pytest.raises(ImportError, match=f"cannot import name '{name}'"):
        exec(f"from pyro_aevb import {name}")


def test_a_room_that_cannot_be_imported_says_why():
    """A library that is missing is named, and not taken for a name that the package does not have."""
    run_alone(
        "import sys\n"
        "sys.modules['pyro'] = None\n"
        "import pyro_aevb\n"
        "try: pyro_aevb.Trainer\n"
        "except ModuleNotFoundError as error: assert error.name == 'pyro', error.name\n"
        "else: raise AssertionError\n"
    )


def test_the_version_is_that_of_the_metadata():
    text = (Path(aevb.__file__).parents[1] / "pyproject.toml").read_text()
    assert aevb.__version__ == re.search(r'^version = "([^"]+)"', text, re.MULTILINE)[1]


def test_classes_are_pickled_by_where_they_are_defined():
    assert pickle.loads(pickle.dumps(aevb.Trainer)) is aevb.Trainer


def test_the_package_may_be_reloaded():
    run_alone(
        "import importlib, pyro_aevb\n"
        "before = pyro_aevb.Trainer\n"
        "assert importlib.reload(pyro_aevb) is pyro_aevb and pyro_aevb.Trainer is before\n"
        "assert pyro_aevb.evidence.importance_sampling\n"
    )


def test_threads_may_ask_at_once():
    """Each thread begins with another name, so that they import the same rooms from different ends."""
    run_alone(
        "import threading, pyro_aevb as aevb\n"
        "names = aevb.__all__\n"
        "start = threading.Barrier(len(names))\n"
        "found = {}\n"
        "def ask(name):\n"
        "    start.wait()\n"
        "    found[name] = getattr(aevb, name)\n"
        "threads = [threading.Thread(target=ask, args=(name,)) for name in names]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "assert found == {name: getattr(aevb, name) for name in names}, set(names) - set(found)\n"
    )


def test_its_page_of_help_has_every_name():
    import pydoc

    page = pydoc.plain(pydoc.render_doc(aevb))
    assert all(re.search(rf"\b{name}\b", page) for name in aevb.__all__)
