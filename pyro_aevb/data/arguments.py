"""How a pair is called: what stands where in its arguments, apart from the tensors that have one row a datum.

Everything that trains or evaluates a pair works on a tuple of tensors, batch first. Arguments of other shapes, keywords
and dictionaries for one, are taken apart here into such a tuple and a :class:`Form`; a pair that is :class:`Called`
with the tensors of some rows puts them together again.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, Dataset

from pyro_aevb.conditions import Conditioned
from pyro_aevb.data.collated import collated
from pyro_aevb.data.given import Rows, as_rows, in_precision, one_tensor
from pyro_aevb.data.mapped import Mapped, OnDemand, in_memory
from pyro_aevb.data.sets import DynamicBinarization, fingerprint
from pyro_aevb.data.streamed import Streamed
from pyro_aevb.errors import InputError
from pyro_aevb.pairs import Pair, own_module, precision_of

__all__ = ["Called", "Data", "Form", "called", "taken_apart", "takes_any_data"]

WHOLE = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

Data = (
    Tensor
    | np.ndarray[Any, Any]
    | OnDemand
    | DynamicBinarization
    | tuple[Any, ...]
    | Mapping[str, Any]
    | Dataset[Any]
    | DataLoader[Any]
    | Streamed
)
"""What :func:`~pyro_aevb.data.taken_apart` takes."""


class Row(NamedTuple):
    """Where the tensor of this place stands."""

    place: int


class Packed(NamedTuple):
    """Where sequences of different lengths stand, packed from the padded tensor and the lengths of these places."""

    values: int
    lengths: int


class Form:
    """A pair's positional and keyword arguments with a ``Row`` or ``Packed`` for whatever has rows.

    Arguments:
        positional: The positional arguments.
        keyword: The keyword arguments.
    """

    def __init__(self, positional: tuple[Any, ...], keyword: dict[str, Any]) -> None:
        self.positional = positional
        self.keyword = keyword

    def arguments(self, tensors: tuple[Tensor, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What a pair is called with for the rows of these tensors: positional arguments, and keywords."""
        return tuple(_filled(each, tensors) for each in self.positional), _filled(self.keyword, tensors)

    def to(self, device: torch.device) -> "Form":
        """The form with its constant tensors on a device."""
        return Form(_moved(self.positional, device), _moved(self.keyword, device))

    @property
    def fingerprint(self) -> str:
        """The form and its constants in words, by which a saved state knows its data."""
        return f"{_told(self.positional)} {_told(dict(sorted(self.keyword.items())))}"

    def named(self, function: Pair) -> dict[str, Any]:
        """The arguments by the names of the function's parameters.

        Raises:
            InputError: If the function does not take them.
        """
        signature = _signature(function)
        if signature is None:
            return dict(self.keyword)
        try:
            return dict(signature.bind(*self.positional, **self.keyword).arguments)
        except TypeError as error:
            given = [*("a positional one" for _ in self.positional), *map(repr, self.keyword)]
            raise InputError(
                f"the pair takes {signature}, and the data are its arguments {', '.join(given)} ({error}): in a tuple "
                "each entry is an argument, in a dictionary each key is the name of one; a dictionary that is one "
                "argument itself stands in a tuple, (data,)"
            ) from error


class Called(partial[Any]):
    """A model or guide that is called with tensors alone and puts its own arguments together from them."""

    form: Form

    def __call__(self, *tensors: Tensor) -> Any:
        """Call the function with the arguments that are made of these rows."""
        args, keywords = self.form.arguments(tensors)
        return self.func(*self.args, *args, **{**self.keywords, **keywords})  # of a partial, which Python takes apart


def called(function: Pair, form: Form | None) -> Pair:
    """A function that takes tensors alone: itself where these are its arguments, else :class:`Called`."""
    if form is None:
        return function
    made = Called(function)
    made.form = form
    return made


def takes_any_data(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """A public function of model, guide and data that is itself given tensors alone, and a pair that takes them.

    Arguments:
        function: A function with a parameter ``x``, or ``args``, for the data, and ``model`` or ``guide`` or both.
    """
    signature = inspect.signature(function)
    data = "x" if "x" in signature.parameters else "args"

    @wraps(function)
    def with_tensors(*args: Parameters.args, **keywords: Parameters.kwargs) -> Result:
        """Call the function with the tensors of its data, and with a pair that is called with tensors."""
        try:
            bound = signature.bind(*args, **keywords)
        except TypeError:
            return function(*args, **keywords)  # whose own words are better
        given = bound.arguments
        pair = [given[role] for role in ("model", "guide") if given.get(role) is not None]
        usable = all(callable(each) and not isinstance(each, type) for each in pair)  # else refused by the function
        if usable and not isinstance(given[data], (Tensor, np.ndarray)):
            found = taken_apart(given[data], evaluated=True)
            for role in ("model", "guide"):
                if given.get(role) is not None:
                    found.check(given[role])
                    given[role] = called(given[role], found.form)
            given[data] = found.given_to(*pair)
        return function(*bound.args, **bound.kwargs)

    return with_tensors


# ---------------------------------------------------------------- taking apart


class TakenApart(NamedTuple):
    """Data as tensors, and how a pair is called with them."""

    tensors: Rows
    """One row a datum each"""
    leaves: tuple[Any, ...]
    """What each tensor was given as"""
    form: Form | None
    """``None`` where the tensors are the pair's positional arguments"""

    @property
    def values(self) -> tuple[Tensor | OnDemand, ...]:
        """The values of each argument, grey ones where they are binarised at each visit."""
        return tuple(one.probabilities if isinstance(one, DynamicBinarization) else one for one in self.tensors)

    def in_precision_of(self, *pair: Pair) -> tuple[Tensor, ...]:
        """The values in the precision of the pair's weights, see :func:`in_precision`; without a pair as they are.

        Whole numbers are brought to it too where a pair of this package has them for its data x; others of its, and
        those of somebody's own pair, may be indices. Values that are not in memory stay where they are: each fetched
        row is to be brought to that precision.
        """
        dtype = precision_of(pair[0], pair[-1]) if pair else None
        found = [in_precision(one, dtype) for one in self.values]
        place = self._place_of_x(pair[0]) if dtype is not None else None
        if place is not None and isinstance(found[place], Tensor):
            found[place] = found[place].to(dtype)
        return tuple(found)

    def _place_of_x(self, model: Pair) -> int | None:
        """Which of the tensors is the data x of a model of this package."""
        if not isinstance(own_module(model), Conditioned):
            return None
        x = self._form.named(model).get("x")
        return x.place if isinstance(x, Row) else None

    @property
    def _form(self) -> Form:
        return self.form or Form(tuple(Row(i) for i in range(len(self.tensors))), {})

    def given_to(self, *pair: Pair) -> tuple[Any, ...]:
        """What stands for the data of a pair that is :func:`called` in this form, in its precision where it has one."""
        return self.leaves if self.form is None else self.in_precision_of(*pair)

    def check(self, function: Pair) -> None:
        """Refuse arguments that a model or guide does not take, and lengths beyond the padding.

        Raises:
            InputError: Names the argument.
        """
        named = self._form.named(function)
        _check_lengths(named, self.tensors)
        own: Any = own_module(function)
        if isinstance(own, Conditioned) and not isinstance(function, Called):  # it knows what its arguments must be
            tensors: Any = tuple(
                one.probabilities if isinstance(one, DynamicBinarization) else one for one in self.tensors
            )
            given = {name: _filled(each, tensors) for name, each in named.items()}
            streamed = any(isinstance(each, OnDemand) and not isinstance(each, Mapped) for each in given.values())
            if given.keys() <= {"x", "condition", "exposure"} and not streamed:  # which are read through but once
                beside = {name: in_memory(each) for name, each in given.items() if name != "x"}
                own.check_data(given["x"], **beside)


def taken_apart(data: Data, *, evaluated: bool) -> TakenApart:
    """Data as tensors with one row a datum, and the form that a pair is called in.

    Arguments:
        data: A tensor, NumPy array, ``Mapped`` or ``DynamicBinarization``; a tuple, with an entry for each of the
            pair's arguments; a dictionary, with an entry for each of its keyword arguments; a ``Dataset`` or
            ``DataLoader`` of torch, which is collated once; a ``Streamed``, which is not. Arguments may be
            dictionaries, lists and tuples of such again, or a ``PackedSequence``; ``None``, numbers, text and tensors
            without a dimension are the same for all data.
        evaluated: Whether the data are to be evaluated: then they must be fixed, not drawn anew at each visit.

    Raises:
        InputError: If they are something else, of different lengths, or none: says what to do.
    """
    if isinstance(data, Streamed):
        return data.apart
    whole: Any = collated(data)
    if _is_tuple(whole):
        whole = tuple(each.column if isinstance(each, Streamed) else each for each in whole)
    if _is_plain(whole):
        given = whole if _is_tuple(whole) else (whole,)
        return TakenApart(as_rows(whole, evaluated=evaluated), given, None)
    taking = _Taking(evaluated)
    if isinstance(whole, Mapping):
        form = Form((), {_keyword(key): taking.apart(each, repr(key)) for key, each in whole.items()})
    elif _is_tuple(whole):
        form = Form(tuple(taking.apart(each, f"data[{i}]") for i, each in enumerate(whole)), {})
    else:
        form = Form((taking.apart(whole, "data"),), {})
    taking.check()
    return TakenApart(tuple(taking.tensors), tuple(taking.leaves), form)


def _is_tuple(thing: Any) -> bool:
    return isinstance(thing, tuple) and not hasattr(thing, "_fields")


def _is_plain(data: Any) -> bool:
    """Are they tensors as they are, or something whose refusal :func:`~pyro_aevb.data.given.as_rows` words?"""
    if _is_tuple(data):
        return all(_has_rows(each) for each in data)
    return not isinstance(data, (Mapping, PackedSequence)) and not hasattr(data, "_fields")


def _has_rows(thing: Any) -> bool:
    return isinstance(thing, (DynamicBinarization, OnDemand)) or (
        isinstance(thing, (Tensor, np.ndarray)) and thing.ndim > 0
    )


def _keyword(key: Any) -> str:
    if not isinstance(key, str) or not key.isidentifier():
        raise InputError(
            f"a dictionary's keys are the names of the pair's arguments, which {key!r} cannot be; a dictionary that is "
            "one argument itself stands in a tuple, (data,)"
        )
    return key


_SINGLE = (bool, int, float, str)


class _Taking:
    """Takes arguments apart, and gathers what has rows."""

    def __init__(self, evaluated: bool) -> None:
        self.evaluated = evaluated
        self.tensors: list[Tensor | OnDemand | DynamicBinarization] = []
        self.leaves: list[Any] = []
        self.names: list[str] = []
        self.listed: dict[str, int] = {}  # lengths of lists of single values

    def apart(self, thing: Any, name: str) -> Any:
        """The thing with places for what has rows."""
        if isinstance(thing, PackedSequence):
            values, lengths = pad_packed_sequence(thing, batch_first=True)
            return Packed(self.row(values, name), self.row(lengths, name))
        if isinstance(thing, Mapping):
            return {key: self.apart(each, f"{name}[{key!r}]") for key, each in thing.items()}
        if isinstance(thing, Streamed):
            return Row(self.row(thing.column, name))
        if isinstance(thing, (Dataset, DataLoader)):
            return self.apart(collated(thing), name)
        if isinstance(thing, (list, tuple)):
            if all(isinstance(each, _SINGLE) for each in thing):
                self.listed[name] = len(thing)
            return _like(thing, [self.apart(each, f"{name}[{i}]") for i, each in enumerate(thing)])
        if isinstance(thing, (np.ndarray, np.generic)) and thing.ndim == 0 and thing.dtype.kind in "buifU":
            return thing.item()
        if thing is None or isinstance(thing, _SINGLE) or (isinstance(thing, Tensor) and thing.ndim == 0):
            return thing
        return Row(self.row(thing, name))

    def row(self, thing: Any, name: str) -> int:
        """The place of a tensor that has a row for each datum."""
        try:
            self.tensors.append(one_tensor(thing, self.evaluated))
        except InputError as error:
            raise InputError(f"argument {name}: {error}") from error
        self.leaves.append(thing)
        self.names.append(name)
        return len(self.tensors) - 1

    def check(self) -> None:
        """Refuse tensors of different lengths, or none.

        Raises:
            InputError: Names two of different lengths.
        """
        if not self.tensors:
            raise InputError("there are no data: no argument has one row a datum")
        for name, tensor in zip(self.names, self.tensors, strict=True):
            if len(tensor) != len(self.tensors[0]):
                raise InputError(
                    f"{self.names[0]} has {len(self.tensors[0])} rows, {name} {len(tensor)}: each tensor has one row a "
                    "datum, batch first; sequences of different lengths are given as "
                    "torch.nn.utils.rnn.pack_sequence(sequences, enforce_sorted=False), what is the same for all data "
                    "as a variable of the pair's own"
                )
        if same := [name for name, length in self.listed.items() if length == len(self.tensors[0])]:
            raise InputError(
                f"argument {same[0]} is a list with an entry for each of the {len(self.tensors[0])} data, which would "
                "be the same in every minibatch: give a tensor or an array"
            )


def _like(given: Any, parts: list[Any]) -> Any:
    return type(given)(*parts) if hasattr(given, "_fields") else type(given)(parts)


# ---------------------------------------------------------------- putting together


def _mapped(tree: Any, leaf: Callable[[Any], Any]) -> Any:
    """Arguments with each leaf replaced."""
    if isinstance(tree, (Row, Packed)):
        return leaf(tree)
    if isinstance(tree, dict):
        return {key: _mapped(each, leaf) for key, each in tree.items()}
    if isinstance(tree, (list, tuple)):
        return _like(tree, [_mapped(each, leaf) for each in tree])
    return leaf(tree)


def _filled(tree: Any, tensors: tuple[Tensor, ...]) -> Any:
    def leaf(each: Any) -> Any:
        """What stands in its place for these rows."""
        if isinstance(each, Row):
            return tensors[each.place]
        if isinstance(each, Packed):
            lengths = tensors[each.lengths].cpu()  # as torch asks for
            return pack_padded_sequence(tensors[each.values], lengths, batch_first=True, enforce_sorted=False)
        return each

    return _mapped(tree, leaf)


def _moved(tree: Any, device: torch.device) -> Any:
    return _mapped(tree, lambda each: each.to(device) if isinstance(each, Tensor) else each)


def _told(tree: Any) -> str:
    return str(_mapped(tree, lambda each: f"{each.dtype} {fingerprint(each)}" if isinstance(each, Tensor) else each))


def _signature(function: Pair) -> inspect.Signature | None:
    """A function's parameters, a module's ``forward``; ``None`` where Python knows none."""
    try:
        # Not of what a decorator wraps, which may take other arguments than the decorated function.
        plain = isinstance(function, nn.Module) and type(function).__call__ is nn.Module.__call__
        called: Any = getattr(function, "forward", function) if plain else function
        return inspect.signature(called, follow_wrapped=False)
    except (TypeError, ValueError):
        return None


def _check_lengths(named: dict[str, Any], tensors: Rows) -> None:
    """Refuse an argument ``lengths`` that is longer than the padded sequences beside it."""
    longest = max((size for tensor in tensors for size in tensor.shape[1:]), default=None)
    for name, argument in named.items():
        if not (name == "lengths" or name.endswith("_lengths")) or not isinstance(argument, Row) or longest is None:
            continue
        lengths: Any = tensors[argument.place]
        if isinstance(lengths, Mapped) and len(lengths.shape) == 1:
            lengths = in_memory(lengths)
        if isinstance(lengths, Tensor) and lengths.dim() == 1 and lengths.dtype in WHOLE and len(lengths):
            row = int(lengths.argmax())
            if lengths[row] > longest:
                raise InputError(
                    f"{name} of datum {row} is {lengths[row]}, and no argument is longer than {longest} in any "
                    "dimension: sequences are padded to the longest, (N, T, ...)"
                )
