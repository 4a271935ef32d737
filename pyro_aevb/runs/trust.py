"""Which class paths of a configuration are followed. Opening a run imports and calls nothing that nobody here named.

jsonargparse imports whatever a configuration names and calls it. So before it sees one, each class path in it is looked
up among the modules that are loaded anyway, and must be a class of the kind that its place asks for. (Its own list of
allowed imports is one for the whole process, cannot be taken back, and does not know of kinds.)
"""

import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from pyro_aevb.errors import InputError, told
from pyro_aevb.guides import Guide
from pyro_aevb.likelihoods import Likelihood
from pyro_aevb.priors import Prior

__all__ = [
    "KINDS",
    "PATH",
    "UNSUITED",
    "check_config",
    "check_suited",
    "folder_of",
    "importable",
    "modules_needed",
    "modules_of",
    "modules_typed",
]

KINDS: dict[str, type] = {
    "prior": Prior,
    "likelihood": Likelihood,
    "guide": Guide,
    "estimator": ELBO,
    "optimizer": torch.optim.Optimizer,
    "scheduler": LRScheduler,
}
"""What the class that a place of a configuration names must be; those in a part's own options are ``nn.Module``."""

ALLOWED = ("pyro_aevb", "torch.nn", "torch.optim", "pyro")
UNSUITED = {
    "ChainedScheduler": "is made of other schedulers, which the command line cannot make",
    "LBFGS": "evaluates the loss many times a step, which minibatches do not allow",
    "LRScheduler": "is the base of all schedulers, and changes nothing",
    "LambdaLR": "takes a function, which a configuration cannot hold",
    "MultiplicativeLR": "takes a function, which a configuration cannot hold",
    "Muon": "steps matrices alone, and networks have biases",
    "Optimizer": "is the base of all optimizers, and steps nothing",
    "Paced": "is the base of optimizers, and steps nothing",
    "ReweightedWakeSleep": "does not run on pairs with a plate of data: WakeSleep does",
    "SequentialLR": "is made of other schedulers, which the command line cannot make",
    "SparseAdam": "takes sparse gradients alone, and those of networks are dense",
    "TraceEnumSample_ELBO": "draws discrete latents after another estimator has trained",
    "TraceTailAdaptive_ELBO": "tells no loss, which is infinite to it",
    "Trace_MMD": "needs a kernel for each site, which the command line cannot make",
}
"""Classes of torch, Pyro and this package that no run can be trained with, and why."""

MOST_VALUES = 10_000  # of a configuration; a run's has some fifty
DEEPEST = 20  # levels of containers in a configuration; a run's has four
LARGEST = 2**63
PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def check_config(
    config: Mapping[str, Any], source: Path, trust: Sequence[str] = (), without: Collection[str] = ()
) -> None:
    """See that a configuration from a file can be parsed and built without running anything of a stranger's.

    Arguments:
        config: Options that the file holds.
        source: The file, for messages.
        trust: Modules whose classes and functions may be named too.
        without: Parts that will not be built, whose class paths are not looked at.

    Raises:
        InputError: If it holds other values than numbers, text, lists and mappings, more than a configuration has,
            or a class path that is not a class of its place's kind from this package, ``torch.nn``, ``torch.optim`` or
            Pyro.
    """
    _Check(source, trust).whole(config, without)


def check_suited(path: str) -> None:
    """Refuse a class of torch or Pyro that no run can be trained with, by its name or import path.

    Raises:
        InputError: Says why.
    """
    module, _, name = path.rpartition(".")
    known = {each.lower(): each for each in UNSUITED}
    own = module.split(".")[0] in ("", "torch", "pyro", "pyro_aevb")
    if own and (found := known.get(name.lower())) is not None:
        raise InputError(f"{found} {UNSUITED[found]}: choose another, see 'pyro-aevb list'")


class _Check:
    """One look at one configuration."""

    def __init__(self, source: Path, trust: Sequence[str]) -> None:
        self.source = source
        self.trust = trust
        self.values = 0

    def whole(self, config: Mapping[str, Any], without: Collection[str]) -> None:
        """All of it."""
        self._plain(config, "", 0)
        for name, value in config.items():
            if name in without:
                continue
            if name in KINDS:
                self._part(value, KINDS[name], name)
            elif isinstance(value, dict):
                raise self._refusal(f"{name} is no part, so it cannot have options of its own")

    def _plain(self, value: Any, where: str, depth: int) -> None:
        """Only what a configuration is made of, and not more than one has: aliases make much of little."""
        self.values += 1
        if self.values > MOST_VALUES or depth > DEEPEST:
            raise self._refusal(f"more than {MOST_VALUES} values, or more than {DEEPEST} levels of them")
        if isinstance(value, dict):
            for key, inner in value.items():
                named = key.isidentifier() if isinstance(key, str) else isinstance(key, int | float) and depth > 1
                if not (named or (depth > 2 and isinstance(key, str) and "." not in key)):
                    raise self._refusal(f"{where or 'it'} has {str(key)[:50]!r}, which is no option's name")
                self._plain(inner, f"{where}.{key}".lstrip("."), depth + 1)
        elif isinstance(value, list):
            for inner in value:
                self._plain(inner, where, depth + 1)
        elif not (value is None or isinstance(value, bool | int | float | str)):
            raise self._refusal(f"{where} is of type {type(value).__name__}: give numbers, text or lists")
        elif isinstance(value, int) and abs(value) >= LARGEST:
            raise self._refusal(f"{where} is too large a number")

    def _part(self, value: Any, kind: type, where: str) -> None:
        """A class path, alone or with options."""
        if value is None:
            return
        spec = {"class_path": value} if isinstance(value, str) else value
        known = {"class_path", "init_args", "dict_kwargs"}
        if not isinstance(spec, dict) or not isinstance(spec.get("class_path"), str) or spec.keys() - known:
            raise self._refusal(f"{where} must be a class path, or class_path and init_args")
        self._class_path(spec["class_path"], kind, where)
        for options in ("init_args", "dict_kwargs"):
            given = spec.get(options) or {}
            if not isinstance(given, dict):
                raise self._refusal(f"{where}.{options} must have lines 'option: value'")
            for name, inner in given.items():
                self._option(inner, f"{where}.{name}")

    def _option(self, value: Any, where: str) -> None:
        """A part's option: a value, or a module of the part's."""
        if isinstance(value, list):
            for inner in value:
                self._option(inner, where)
        elif isinstance(value, dict) and ("class_path" in value or "init_args" in value):
            self._part(value, nn.Module, where)
        elif isinstance(value, dict):
            for name, inner in value.items():
                self._option(inner, f"{where}.{name}")
        elif isinstance(value, str) and not _is_text(value):
            self._class_path(value, nn.Module, where)

    def _class_path(self, path: str, kind: type, where: str) -> None:
        try:
            check_suited(path)
        except InputError as error:
            raise self._refusal(f"{where} is {path}, and {error}") from error
        if path.isidentifier():  # may be short for a loaded class of the kind
            named = [found for found in _subclasses(kind) if found.__name__ == path]
            ours = [found for found in named if found.__module__.partition(".")[0] in ("torch", "pyro", "pyro_aevb")]
            if ours and not any(_is_within(found.__module__) for found in ours):
                raise self._refusal(
                    f"{where} is {path}, short for {ours[0].__module__}.{path}", f"{ours[0].__module__}."
                )
            return
        if not PATH.fullmatch(path):
            raise self._refusal(f"{where} is {path[:80]!r}, neither a name nor a class path")
        if _top(path) in sys.stdlib_module_names:
            raise self._refusal(f"{where} is {path}, which is Python's own and no {kind.__name__}")
        trusted = any(path.startswith(f"{module}.") for module in self.trust)
        if trusted and folder_of(_top(path)) is not None:
            return
        module, _, name = path.rpartition(".")
        if not _is_within(module):
            raise self._refusal(f"{where} is {path}, and {self._origin(path)}", "" if trusted else path)
        there: Any = vars(sys.modules[module]).get(name) if module in sys.modules else None
        if not isinstance(there, type) or not _is_within(there.__module__):
            raise self._refusal(f"{where} is {path}, which is no class that this package, torch or Pyro loads", path)
        if not issubclass(there, kind):
            raise self._refusal(f"{where} is {path}, which is no {kind.__name__}")

    def _origin(self, path: str) -> str:
        """Where a module would come from; it is looked for, not imported. One that is missing may lie near the run."""
        top = _top(path)
        if (folder := folder_of(top)) is not None:
            return f"module {top} would be imported from {folder}"
        near = [each for each in Path(os.path.abspath(self.source)).parents if folder_of(top, [str(each)]) == each]
        where = f"{near[0]}, which has one" if near else f"the folder of {top}.py"
        return f"there is no module {top} here: cd to {where}, or put that folder on PYTHONPATH"

    def _refusal(self, what: str, path: str = "") -> InputError:
        module = path.rpartition(".")[0]
        how = f"add --trust {module}, or trust=['{module}'] in Python, if you know what it runs"
        joint = ", and " if "PYTHONPATH" in what else ": "
        return InputError(f"{self.source}: {what}{f'{joint}{how}' if path else ''}")


def _is_text(value: str) -> bool:
    """Whether it is nothing but text to whoever parses it: no name of a class, no path of a module, no YAML."""
    if value.isidentifier() or any(mark in value for mark in "{}[]&*!|>%@`\n\"'") or ": " in value:
        return False
    return not PATH.fullmatch(value) or folder_of(_top(value)) is None


def _is_within(module: str) -> bool:
    return any(module == allowed or module.startswith(f"{allowed}.") for allowed in ALLOWED)


def _subclasses(kind: type) -> set[type]:
    found: set[type] = {kind}
    inner: list[type] = type.__subclasses__(kind)
    for each in inner:
        found |= _subclasses(each)
    return found


def _top(path: str) -> str:
    return path.partition(".")[0]


def folder_of(module: str, folders: Sequence[str] | None = None) -> Path | None:
    """The folder that a top-level module would be imported from; ``None`` where there is none.

    Arguments:
        module: The module.
        folders: Folders to look in, first to last; by default Python's own, then the current one.
    """
    found = PathFinder.find_spec(module, [*sys.path, str(Path.cwd())] if folders is None else folders)
    if found is None and folders is None and module == "pyro_aevb":  # this one, where it is installed to be edited
        found = sys.modules[module].__spec__
    if found is None:
        return Path(sys.prefix) if module in sys.builtin_module_names else None
    if found.submodule_search_locations:  # a package
        return Path(next(iter(found.submodule_search_locations))).parent
    return Path(found.origin).parent if found.origin else None


def modules_of(trust: str | Sequence[str] | None) -> list[str]:
    """The modules that the user's own word names.

    Arguments:
        trust: Names of modules, a sequence of them or one text with commas; ``None`` for none.

    Raises:
        InputError: If one is no module's name.
    """
    if trust is not None and not (isinstance(trust, Sequence) and all(isinstance(name, str) for name in trust)):
        raise InputError(f"trust must be names of modules, such as ['my_parts'], not {told(trust)}")
    given = trust.split(",") if isinstance(trust, str) else list(trust or ())
    names = [name.strip() for name in given if name.strip()]
    if own := [name for name in names if _top(name) in sys.stdlib_module_names]:
        raise InputError(f"--trust {own[0]}: that is a module of Python's own, which has no parts")
    if wrong := [name for name in names if not all(word.isidentifier() for word in name.split("."))]:
        raise InputError(f"--trust {wrong[0]!r} is no module: give names such as my_parts, separated by commas")
    return names


def modules_needed(config: Mapping[str, Any]) -> list[str]:
    """The modules that ``--trust`` must name for a configuration to be followed, in order, each once.

    Arguments:
        config: What the file holds, which can be followed.
    """
    named: dict[str, None] = {}

    def look(value: Any) -> None:
        """Note the module of each class path in a value, and in what it holds."""
        if isinstance(value, dict | list):
            for each in value.values() if isinstance(value, dict) else value:
                look(each)
        elif isinstance(value, str) and PATH.fullmatch(value) and not _is_text(value):
            module = value.rpartition(".")[0]
            if not _is_within(module):
                named[module] = None

    look([config.get(name) for name in KINDS])
    return list(named)


def modules_typed(words: Sequence[str]) -> list[str]:
    """The modules that typed import paths of parts name, and those of ``--trust``."""
    option = ""
    found: list[str] = []
    for word in words:
        option, value = word.split("=", 1) if word.startswith("--") and "=" in word else (option, word)
        if word.startswith("--") and "=" not in word:
            option = word
        elif option == "--trust":
            found += value.split(",")
        elif option.removeprefix("--").split(".")[0] in KINDS:
            found += [match[0] for match in PATH.finditer(value)]
    return [path.strip() for path in found]


@contextmanager
def importable(modules: Sequence[str]) -> Iterator[None]:
    """Let these modules be imported from the current folder, which stands after all others, where they are only there.

    Processes that libraries start meanwhile, a compiler's say, do not look into the current folder first, as Python's
    ``-c`` does.
    """
    here = str(Path.cwd())
    safe = os.environ.get("PYTHONSAFEPATH")
    tops = {_top(module) for module in modules}
    needed = here not in sys.path and any(folder_of(top) == Path(here) for top in tops if not _is_within(top))
    sys.path += [here] * needed
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if needed:
            sys.path.remove(here)
        os.environ.pop("PYTHONSAFEPATH")
        if safe is not None:
            os.environ["PYTHONSAFEPATH"] = safe
