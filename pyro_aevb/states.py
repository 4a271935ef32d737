"""States of a training: sealed with a digest when they are saved, looked at before any of it is used.

A fused optimizer checks no shapes, so that a moment of another shape is read past its end; a flipped bit is another
number. So each value of a state is compared with its place here: its kind, and for a tensor its shape, its precision,
that it has memory of its own, and that it is finite.
"""

import copy
import hashlib
import logging
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_aevb.errors import InputError
from pyro_aevb.origins import comes_from
from pyro_aevb.seeds import seeded

__all__ = [
    "COMPUTED_BY",
    "check_digest",
    "check_gathered",
    "check_identity",
    "check_kinds",
    "check_noise",
    "check_optimizer",
    "check_plain",
    "check_setting",
    "check_tensors",
    "digest_of",
    "holds_tensors",
    "sealed",
]

logger = logging.getLogger(__name__)

COMPUTED_BY = ("fused", "capturable", "foreach")  # settings of an optimizer that change no number but by rounding
DIGEST = "digest"
STEPS = "step"  # torch.optim's count; only this name tells it from a moment of a parameter that is one number
LARGEST = 2**63
LARGEST_WHOLE = 2**53  # that a float holds exactly
MOST_VALUES = 1_000_000  # of a state; a run's has some hundreds
DEEPEST = 50  # levels of containers in a state; a run's has eight


# ---------------------------------------------------------------- the seal


def sealed(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state with its own digest."""
    plain = {key: value for key, value in state.items() if key != DIGEST}
    return {**plain, DIGEST: digest_of(plain)}


def check_digest(state: Mapping[str, Any], what: str, *, required: bool) -> None:
    """See that a state is as it was saved.

    Arguments:
        state: The state.
        what: How the message calls the state.
        required: Whether states of its format have a digest; of one without, one line says that it is not checked.

    Raises:
        InputError: If the digest is missing or another.
    """
    if DIGEST not in state and not required:
        logger.warning("%s was saved by an earlier version and carries no digest: damage to it would not be seen", what)
    elif state.get(DIGEST) != sealed(state)[DIGEST]:
        raise InputError(f"{what} is not as it was saved: a value in it was changed or damaged, so it was not used")


def digest_of(value: Any) -> str:
    """SHA-256 of tensors, numbers, text and containers of them, on whatever device the tensors lie."""
    digest = hashlib.sha256()
    _add(digest, value)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().as_strided((value.numel(),), (1,))  # one number may have stride 0
        digest.update(flat.view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)}".encode())
        for key in sorted(value, key=repr):
            _add(digest, key)
            _add(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"sequence {len(value)}".encode())
        for each in value:
            _add(digest, each)
    else:
        digest.update(f"{type(value).__name__} {value!r};".encode())


# ---------------------------------------------------------------- kinds and shapes


def check_identity(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """See that a state is of these data, this seed, and whatever else a training cannot change on its way.

    Arguments:
        saved: The saved values, by name.
        own: This training's values, by name.

    Raises:
        InputError: Names what is another.
    """
    for key, value in own.items():
        if type(saved.get(key)) is not type(value) or saved[key] != value:
            raise InputError(f"the saved run has another {key}: resume it with the {key} that it began with")


def check_kinds(state: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    """See that each of these entries is there and of its kind; a count is at least 0.

    Raises:
        InputError: Names the entry.
    """
    for key, kind in kinds.items():
        value = state.get(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise InputError(f"the state's {key} is of type {type(value).__name__}, not {kind.__name__}: it is damaged")
        if isinstance(value, int) and not 0 <= value < LARGEST:
            raise InputError(f"the state's {key} is not between 0 and 2^63: it is damaged")


def check_plain(value: Any, where: str, depth: int = 0) -> int:
    """See that there is nothing but plain tensors in a state, each with memory of its own.

    Arguments:
        value: The state, or what lies inside it.
        where: How the message calls it.
        depth: How many levels of containers lie around it.

    Returns:
        Number of values that there are, since a list of lists of one list may be many.

    Raises:
        InputError: Names the first that is another: sparse, quantised, without memory, or one number said to be many;
            or says that there are too many.
    """
    count = 1
    _check_count(count, depth)  # before it goes deeper than Python does
    if isinstance(value, Tensor):
        if type(value) is not Tensor or value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise InputError(f"{where} is no plain tensor: the state is damaged")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise InputError(f"{where} has fewer numbers in memory than its shape {_shape(value)} says")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            count += check_plain(inner, f"{where}.{key!s:.50}", depth + 1)
            _check_count(count, depth)
    elif isinstance(value, list | tuple):
        for inner in value:
            count += check_plain(inner, where, depth + 1)
            _check_count(count, depth)
    return count


def holds_tensors(value: Any) -> bool:
    """Whether there is a tensor somewhere in nested containers."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, Tensor) or any(map(holds_tensors, inner))


def _check_count(count: int, depth: int) -> None:
    if count > MOST_VALUES or depth > DEEPEST:
        raise InputError(f"a state of more than {MOST_VALUES} values, or {DEEPEST} levels of them: it is damaged")


def check_tensors(saved: Any, own: Mapping[str, Any], where: str, finite: bool = True) -> None:
    """See that saved tensors have the shapes and precisions of those that they are to be copied into.

    Those that are missing or too many are left to whoever loads them, and so is what is no tensor.

    Arguments:
        saved: The saved tensors, by name.
        own: Those that they are to be copied into, by name.
        where: How the message calls the saved ones.
        finite: Whether their values must be finite.

    Raises:
        InputError: Names the first that has another.
    """
    if not isinstance(saved, Mapping) or not all(isinstance(name, str) for name in saved):
        raise InputError(f"{where} is of type {type(saved).__name__}, or has no names: the state is damaged")
    for name, tensor in own.items():
        if isinstance(tensor, Tensor) and name in saved:
            _check_tensor(saved[name], tensor, f"{where}.{name}", finite)


def _check_tensor(saved: Any, own: Tensor, where: str, finite: bool = True) -> None:
    if not isinstance(saved, Tensor):
        raise InputError(f"the saved run has another model, guide or optimizer ({where} is no tensor)")
    same_layout = saved.stride() == own.stride() or (saved.is_contiguous() and own.is_contiguous())
    if saved.shape != own.shape or saved.dtype != own.dtype or not same_layout:
        found, wanted = (f"{str(t.dtype).removeprefix('torch.')} {_shape(t)}" for t in (saved, own))
        raise InputError(f"the saved run has another model, guide or optimizer ({where} is {found}, not {wanted})")
    if finite and not torch.isfinite(saved).all():
        raise InputError(f"{where} has NaN or infinite values in the saved state: go on from another one")


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _is_number(value: Any) -> bool:
    """A finite one; a whole number is none that a float cannot hold to the last digit, which torch may not take."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= (LARGEST_WHOLE if isinstance(value, int) else sys.float_info.max)


def check_gathered(saved: Any) -> None:
    """See that the losses since the last report are as many as their divisors and sizes.

    Raises:
        InputError: If they are not.
    """
    check_kinds(saved, {"losses": Tensor, "divisors": list, "sizes": list})
    losses, divisors, sizes = (saved[key] for key in ("losses", "divisors", "sizes"))
    right = losses.dim() == 1 and losses.is_floating_point() and len(losses) == len(divisors) == len(sizes)
    right = right and all(_is_number(divisor) and divisor > 0 for divisor in divisors)
    if not (right and all(type(size) is int and 0 < size < LARGEST for size in sizes)):
        raise InputError("the state's gathered losses do not fit each other: it is damaged")


def check_noise(saved: Any, own: Mapping[str, Tensor]) -> None:
    """See that the states of random generators are of these devices' generators, and are taken by one.

    Raises:
        InputError: If they are not.
    """
    if not isinstance(saved, Mapping) or "cpu" not in saved or saved.keys() - {"cpu", "device"}:
        raise InputError("the state's noise is not that of the CPU and perhaps of one device: it is damaged")
    check_tensors(saved, own, "noise", finite=False)
    try:
        torch.Generator().set_state(saved["cpu"].cpu())
    except RuntimeError as error:
        raise InputError("the state's noise is no state of a random generator: it is damaged") from error


# ---------------------------------------------------------------- optimizers


def check_optimizer(saved: Any, optimizer: torch.optim.Optimizer, stepped: bool) -> None:
    """See that a saved state is one that this optimizer could have, of these parameters.

    What it should look like a copy of the optimizer shows, by one step on copies of the parameters.

    Arguments:
        saved: The saved state, as ``optimizer.state_dict()`` returned it.
        optimizer: The optimizer that is to go on from it.
        stepped: Whether steps were taken before it was saved, so that it cannot be empty.

    Raises:
        InputError: Names what is not.
    """
    check_kinds(saved, {"state": dict, "param_groups": list})
    groups = optimizer.state_dict()["param_groups"]
    if len(groups) != len(saved["param_groups"]):
        raise InputError(
            f"the saved optimizer has {len(saved['param_groups'])} groups of parameters, not {len(groups)}"
        )
    for own, theirs in zip(groups, saved["param_groups"], strict=True):
        _check_group(theirs, own)
    expected = _after_a_step(optimizer)
    if expected is None:
        _check_shapes(saved["state"], optimizer)
        return
    if stepped and expected and not saved["state"]:
        raise InputError("the saved optimizer has no state, though steps were taken: it is damaged")
    for index, theirs in saved["state"].items():
        if index not in expected:
            raise InputError(f"the saved optimizer has a state of parameter {index!r}, which is none of the pair's")
        _check_entry(theirs, expected[index], f"optimizer state {index}")


def _after_a_step(optimizer: torch.optim.Optimizer) -> dict[Any, Any] | None:
    """The state of a copy that has stepped once, with gradients zero; ``None`` of an optimizer that is not so regular.

    Somebody's own may keep things beside its state, which a copy does not have, or begin to keep them later.
    """
    if not comes_from(type(optimizer), "torch", "pyro", "pyro_aevb"):
        return None
    try:
        twin = copy.deepcopy(optimizer)
        for p in (p for group in twin.param_groups for p in group["params"]):
            p.grad = torch.zeros_like(p)
        device = twin.param_groups[0]["params"][0].device
        with seeded(0, device):  # some draw noise
            twin.step()
        return dict(twin.state_dict()["state"])
    except Exception:  # whatever keeps it from a step without gradients
        return None


def _check_shapes(saved: Mapping[Any, Any], optimizer: torch.optim.Optimizer) -> None:
    """See that each tensor of a parameter's state has the parameter's shape, or is one number."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, entry in saved.items():
        if not isinstance(index, int) or not 0 <= index < len(parameters) or not isinstance(entry, dict):
            raise InputError(f"the saved optimizer has a state of parameter {index!r}, which is none of the pair's")
        for name, tensor in entry.items():
            if isinstance(tensor, Tensor) and not _is_count(tensor):
                _check_tensor(tensor, parameters[index].detach(), f"optimizer state {index}.{name}")


def _check_entry(saved: Any, own: Mapping[str, Any], where: str) -> None:
    if not isinstance(saved, dict) or saved.keys() != own.keys():
        raise InputError(f"the saved run has another optimizer ({where} does not have {', '.join(own)} alone)")
    for name, value in own.items():
        if not isinstance(value, Tensor):
            check_setting(saved[name], value, f"{where}.{name}")
        elif name == STEPS and _is_count(saved[name]) and _is_count(value):
            if saved[name] < 0:
                raise InputError(f"{where}.{name} is {saved[name].item()}, less than 0: the state is damaged")
            _check_tensor(saved[name].to(value.dtype), value, f"{where}.{name}")  # of steps, of any precision
        else:
            _check_tensor(saved[name], value, f"{where}.{name}")


def _is_count(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0 and not value.is_complex() and value.dtype != torch.bool


def _check_group(saved: Any, own: Mapping[str, Any]) -> None:
    right = isinstance(saved, dict) and isinstance(saved.get("params"), list)
    if not right or any(type(i) is not int for i in saved["params"]) or saved["params"] != own["params"]:
        raise InputError("the saved run has another optimizer (its groups do not hold the pair's parameters)")
    for name in own.keys() & saved.keys() - {"params", *COMPUTED_BY}:
        check_setting(saved[name], own[name], f"optimizer {name}")
    betas = saved.get("betas", ()) if "betas" in own else ()
    if not all(0 <= beta < 1 for beta in betas):
        raise InputError(f"the saved optimizer betas are {betas}, which do not lie in [0, 1): the state is damaged")


def check_setting(saved: Any, own: Any, where: str) -> None:
    """See that a number stands for a number, a switch for a switch, in nested settings too.

    Raises:
        InputError: Names the one that does not.
    """
    if type(saved) is type(own) and not isinstance(own, Tensor | Mapping | list | tuple) and saved == own:
        return
    if isinstance(own, Mapping):
        right = isinstance(saved, Mapping) and saved.keys() == own.keys()
        for name in own if right else ():
            check_setting(saved[name], own[name], f"{where}.{name}")
    elif own is None:
        right = saved is None
    elif isinstance(own, bool | str):
        right = type(saved) is type(own) and saved == own  # a switch says which moments there are
    elif isinstance(own, list | tuple):
        right = isinstance(saved, list | tuple) and len(saved) == len(own)
        for theirs, mine in zip(saved, own, strict=True) if right else ():
            check_setting(theirs, mine, where)
    else:
        number = saved.item() if isinstance(saved, Tensor) and saved.numel() == 1 else saved
        right = _is_number(number) and abs(number) <= torch.finfo(torch.float32).max
    if not right:
        raise InputError(f"the saved {where} is {saved!s:.50}, where {own!r:.50} stands here: the state is damaged")
