"""What a user's pair is made of: the ``nn.Module`` s behind two callables, found by running them, and their switches.

Names in a program's text lie in both directions: a handler, a ``partial``, a dictionary or a plain class hides a
module, and a global that only shares an attribute's name is no part at all. So a run tells which modules take part, and
the text only gives them names that are the same in every process.
"""

import dis
import gc
import itertools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from pyro.params import module_from_param_with_module_name
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from pyro_aevb.origins import comes_from

__all__ = [
    "Pair",
    "copies_of_each",
    "evaluating",
    "globals_read",
    "modules_named_by",
    "noticing",
    "own_module",
    "parts_that_ran",
    "precision_of",
    "repeated",
    "tensors_of",
    "trained_parameters",
    "without_a_trace",
    "wrapped_by",
]

Pair = Callable[..., Any]

MOST_VISITED = 10_000  # objects: whoever keeps modules behind more than these is found by running, under another name
LARGEST_CONTAINER = 1_000


# ---------------------------------------------------------------- names, from the program's text


def modules_named_by(model: Pair, guide: Pair) -> dict[str, nn.Module]:
    """The modules that model and guide are, are methods of, or can reach; each once, by a stable name.

    What can be reached need not take part: :func:`pyro_aevb.traces.modules_of` runs the pair to see.

    >>> net = nn.Linear(2, 3)
    >>> list(modules_named_by(net, lambda x: net(x)))
    ['model']
    """
    found: dict[str, nn.Module] = {}
    for role, function in (("model", model), ("guide", guide)):
        for name, module in _Walk().reachable(function, ""):
            if all(module is not known for known in found.values()):
                found[_free_name(f"{role}{name}", found)] = module
    return found


def precision_of(model: Pair, guide: Pair) -> torch.dtype | None:
    """The precision of a pair's weights, of the first that a name leads to; ``None`` where none is found."""
    named = modules_named_by(model, guide).values()
    return next((p.dtype for module in named for p in module.parameters() if p.is_floating_point()), None)


def own_module(function: Pair) -> nn.Module | None:
    """The module that a function is or is a method of, behind Pyro's handlers and ``partial`` s; ``None`` if none."""
    while isinstance(function, partial):
        function = wrapped_by(function)
    owner = getattr(function, "__self__", function)
    return owner if isinstance(owner, nn.Module) else None


def wrapped_by(function: Any) -> Any:
    """What a ``partial`` calls; of one of Pyro's handlers around a function, that function."""
    handled = len(function.args) >= 2 and isinstance(function.args[0], Messenger) and callable(function.args[1])
    return function.args[1] if handled else function.func


class _Walk:
    """A walk through what a function can reach, once through each object."""

    def __init__(self) -> None:
        self.visited: dict[int, Any] = {}  # kept alive, so that no identity is used twice

    def reachable(self, thing: Any, path: str) -> Iterator[tuple[str, nn.Module]]:
        """Modules below, each with the names that lead there."""
        if id(thing) in self.visited or len(self.visited) > MOST_VISITED:
            return
        self.visited[id(thing)] = thing
        if isinstance(thing, nn.Module):
            yield path, thing
            if isinstance(thing, torch.jit.ScriptModule):
                return
        for name, part in _named_parts(thing):
            yield from self.reachable(part, path + name)


def _named_parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """What lies one step behind an object, and what the step is called."""
    if isinstance(thing, partial):
        yield "", wrapped_by(thing)
        yield from ((f".{i}", value) for i, value in enumerate(thing.args))
        yield from ((f".{name}", value) for name, value in thing.keywords.items())
    elif isinstance(thing, MethodType):
        yield ".self", thing.__self__
        yield "", thing.__func__
    elif isinstance(thing, FunctionType):
        yield from _variables(thing)
    elif isinstance(thing, Mapping):
        yield from ((f".{name}", value) for name, value in thing.items() if len(thing) <= LARGEST_CONTAINER)
    elif isinstance(thing, (list, tuple, set, frozenset)):
        yield from ((f".{i}", value) for i, value in enumerate(thing) if len(thing) <= LARGEST_CONTAINER)
    elif _is_plain(thing):
        yield from ((f".{name}", value) for name, value in vars(thing).items())
        yield "", vars(type(thing)).get("__call__")


def _is_plain(thing: Any) -> bool:
    """Is it an object of a class that somebody wrote, rather than a number, a tensor or a part of torch?"""
    if isinstance(thing, (type, ModuleType, Tensor, nn.Module)) or not hasattr(thing, "__dict__"):
        return False
    return not comes_from(type(thing), "torch", "builtins", "numpy")


def _variables(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """A function's variables from outside: globals that it reads, what it closes over, its defaults, what it wraps."""
    if comes_from(function, "torch", "pyro"):
        return
    for name in sorted(globals_read(function.__code__)):
        if name in function.__globals__:
            yield f".{name}", function.__globals__[name]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f".{name}", cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield "", function.__defaults__
    yield "", function.__kwdefaults__
    yield "", getattr(function, "__wrapped__", None)


def globals_read(code: CodeType) -> set[str]:
    """Globals that code reads, that of functions inside it too; an attribute of the same name is none."""
    names = {str(i.argval) for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return names.union(*map(globals_read, inner))


def _free_name(name: str, taken: Iterable[str]) -> str:
    others = (f"{name}#{count}" for count in itertools.count(1))
    return next(free for free in itertools.chain([name], others) if free not in taken)


# ---------------------------------------------------------------- parts, by running


def parts_that_ran(model: Pair, guide: Pair, ran: Mapping[str, Iterable[nn.Module]]) -> dict[str, nn.Module]:
    """The modules that take part in a pair, by stable names, from those that ran under each role.

    Of a module that holds one that takes part the whole takes part. What no name leads to is named by its class and
    the order in which it ran.

    Arguments:
        model: The model.
        guide: Its guide.
        ran: The modules that ran, in their order, under the roles ``"model"`` and ``"guide"``.
    """
    seen = {id(module) for modules in ran.values() for module in modules}
    own = [own_module(model), own_module(guide)]
    found = {
        name: module
        for name, module in modules_named_by(model, guide).items()
        if any(module is each for each in own) or any(id(part) in seen for part in module.modules())
    }
    known = {id(part) for module in found.values() for part in module.modules()}
    for role, modules in ran.items():
        held = {id(part) for module in modules for part in module.modules() if part is not module}
        for module in modules:
            if id(module) not in known and id(module) not in held:  # the outermost alone
                found[_free_name(f"{role}.{type(module).__name__}", found)] = module
                known.update(id(part) for part in module.modules())
    return found


class _Switched:
    """Modules that are switched to ``eval()``, if so wished, when they are first seen, and put back as they were."""

    def __init__(self, evaluate: bool = True, keep_buffers: bool = False) -> None:
        self.evaluate = evaluate
        self.seen: dict[int, nn.Module] = {}
        self.training: list[tuple[nn.Module, bool]] = []
        self.buffers: list[tuple[nn.Module, str, Tensor, Tensor]] | None = [] if keep_buffers else None
        self.thread = threading.get_ident()

    def see(self, module: nn.Module) -> None:
        """Switch a module and its parts, if they were not seen before."""
        if id(module) in self.seen or threading.get_ident() != self.thread:
            return
        known = {id(part) for part, _ in self.training}
        self.seen[id(module)] = module
        for part in module.modules():
            if id(part) not in known and _has_switch(part):
                self.training.append((part, part.training))
                part.training = part.training and not self.evaluate
                if self.buffers is not None:
                    own = ((n, b) for n, b in part.named_buffers(recurse=False) if not is_lazy(b))
                    self.buffers += [(part, name, b, b.detach().clone()) for name, b in own]

    def restore(self) -> None:
        """Put switches and buffers of all modules seen back as they were."""
        for part, was in self.training if self.evaluate else ():
            part.training = was
        for part, name, buffer, value in self.buffers or ():
            with torch.no_grad():
                buffer.copy_(value)
            now = dict(part.named_buffers(recurse=False)).get(name)
            if now is not None and now is not buffer:  # assigned anew, not changed in place
                setattr(part, name, buffer)


def _has_switch(module: nn.Module) -> bool:
    """Is it whole? One that is only being made has no ``training`` yet, a compiled one keeps it elsewhere."""
    return getattr(module, "training", None) is not None


@contextmanager
def evaluating(modules: Iterable[nn.Module] = ()) -> Iterator[None]:
    """Put modules in ``eval()`` for a block, and whatever else runs in it, each part back as it was afterwards."""
    switched = _Switched()
    for module in modules:
        switched.see(module)
    handle = register_module_forward_pre_hook(lambda module, _: switched.see(module))
    try:
        yield
    finally:
        handle.remove()
        switched.restore()


@contextmanager
def without_a_trace(evaluate: bool = True) -> Iterator[dict[int, nn.Module]]:
    """Watch which modules a block uses; their buffers and switches are afterwards what they were.

    A module is seen when it is called, when any method of it is, ``forward`` called directly for one, and when a weight
    is read from it: each is a call of a Python function with the module as its first argument. That is what
    ``sys.setprofile`` tells; where somebody else's profiler is at work, calls of modules are seen alone. Python
    looks for no garbage meanwhile: to close a generator of a module of somebody else's is such a call too.

    Arguments:
        evaluate: Whether to switch modules to ``eval()`` as they are first seen.

    Yields:
        The modules seen, in their order, by identity.
    """
    switched = _Switched(evaluate, keep_buffers=True)
    handle = register_module_forward_pre_hook(lambda module, _: switched.see(module))
    before = sys.getprofile()
    with _no_garbage_collected():
        if before is None:
            sys.setprofile(partial(_on_call, switched.see))
        try:
            yield switched.seen
        finally:
            if before is None:
                sys.setprofile(None)
            handle.remove()
            switched.restore()


@contextmanager
def _no_garbage_collected() -> Iterator[None]:
    """A block in which Python closes nothing that others have thrown away, and looks for it as before afterwards."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _on_call(see: Callable[[nn.Module], None], frame: FrameType, event: str, _: Any) -> None:
    """Called by Python at each call of a function: see the module that it is a method of, if it is one."""
    code = frame.f_code
    if event != "call" or not code.co_argcount or code.co_filename == __file__:
        return
    first = frame.f_locals.get(code.co_varnames[0])
    if isinstance(first, nn.Module) and code.co_name != "__init__" and _has_switch(first):
        see(first)


@contextmanager
def noticing(known: Iterable[nn.Module]) -> Iterator[list[nn.Module]]:
    """Notice modules that run in a block and are no part of those known: a pair may come to use another."""
    parts = {id(part) for module in known for part in module.modules()}
    thread = threading.get_ident()
    new: list[nn.Module] = []

    def notice(module: nn.Module, _: Any) -> None:
        """Told by torch before each call of a module."""
        if id(module) not in parts and threading.get_ident() == thread:
            parts.update(id(part) for part in module.modules())
            new.append(module)

    handle = register_module_forward_pre_hook(notice)
    try:
        yield new
    finally:
        handle.remove()


_COPIES: ContextVar[int] = ContextVar("copies", default=1)


@contextmanager
def repeated(count: int) -> Iterator[None]:
    """A block in which each datum stands in a pair's arguments so many times over, as particles that are folded do."""
    token = _COPIES.set(count)
    try:
        yield
    finally:
        _COPIES.reset(token)


def copies_of_each() -> int:
    """How many times each datum stands in the arguments of the pair that is being run."""
    return _COPIES.get()


def tensors_of(thing: Any, depth: int = 3) -> dict[str, Tensor]:
    """The tensors that an object keeps, an estimator say: its attributes, and those in their lists and dictionaries.

    >>> tensors_of({"mean": torch.zeros(2), "name": "x"}).keys()
    dict_keys(['.mean'])
    """
    found: dict[str, Tensor] = {}
    for name, value in _kept(thing):
        if isinstance(value, Tensor):
            found[f".{name}"] = value
        elif depth and isinstance(value, (dict, list, tuple, nn.Module)):
            found.update({f".{name}{rest}": tensor for rest, tensor in tensors_of(value, depth - 1).items()})
    return found


def _kept(thing: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(thing, nn.Module):
        return [*thing.named_parameters(), *thing.named_buffers()]
    if isinstance(thing, dict):
        return thing.items()
    return enumerate(thing) if isinstance(thing, (list, tuple)) else vars(thing).items()


# ---------------------------------------------------------------- what is trained


def trained_parameters(
    model: Pair, guide: Pair, modules: Mapping[str, nn.Module], met: dict[str, Tensor]
) -> dict[str, Tensor]:
    """What to train, by stable names: all that Pyro met, and all of a model or guide that is a module.

    The latter need not show Pyro its parameters; and of one that is not contiguous Pyro's store keeps a copy, so that
    ``SVI`` would not train it.

    Arguments:
        model: The model.
        guide: Its guide.
        modules: The modules that take part in the pair, by their stable names.
        met: The parameters that Pyro met in a run of the pair, by their names in its parameter store.
    """
    in_modules = {f"{m}.{n}": p for m, module in modules.items() for n, p in module.named_parameters()}
    parts = [part for part in (_as_module(model), _as_module(guide)) if part is not None]
    wanted = {id(p) for p in met.values()} | {id(p) for m in parts for p in m.parameters() if p.requires_grad}
    named: dict[str, Tensor] = {}
    for name, parameter in in_modules.items():
        if id(parameter) in wanted:
            named[name] = parameter
            wanted.remove(id(parameter))  # a module within another one found: its weights once
    known = {id(p) for p in named.values()}
    others = {name: p for name, p in met.items() if id(p) not in known}
    return named | {name: p for name, p in others.items() if not is_copy(name, p, modules.values())}


def is_copy(name: str, parameter: Tensor, modules: Iterable[nn.Module]) -> bool:
    """Whether Pyro's store made it of a module's parameter that is not contiguous, when the module was registered."""
    registered = module_from_param_with_module_name(name) != name
    own = (p for module in modules for p in module.parameters())
    return registered and any(p.shape == parameter.shape and not p.is_contiguous() for p in own)


def _as_module(function: Pair) -> nn.Module | None:
    """The module that a function is, not one that it is a method of."""
    while isinstance(function, partial):
        function = wrapped_by(function)
    return function if isinstance(function, nn.Module) else None
