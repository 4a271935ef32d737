"""The device, and settings of the processor that pay: chosen by facts, entered around a block of steps, put back.

On AMD processors oneDNN's float32 product takes MKL's place (up to twice as fast, measured). Small products run in
fewer threads. On processors with bfloat16 units the same switch would compute products in bfloat16: the error of one
product tells, and a lossy path is taken only where ``precision`` asks for it.

No stopwatch has a say: sums are split by threads, so that settings chosen by time made equal seeds give other numbers
whenever the machine was busy.
"""

import logging
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_aevb.errors import InputError, choice, flag, whole
from pyro_aevb.states import check_kinds

__all__ = ["Precision", "Settings", "find_device", "find_settings", "largest_product", "settings_of_state"]

logger = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16", "auto"]

WORK = 500_000  # multiplications that each thread must have: in two threads 0.5 million gain nothing, 1 million 25 %
MATMULS = ("highest", "high", "medium")
MOST_THREADS = 4096
EXAMPLE = (64, 256, 64)  # rows, inner, columns of a product that tells whether a processor computes it in bfloat16
LOSSLESS = 2e-6  # relative error of a float32 product of these sizes is 3e-7; of a bfloat16 one 3e-3


@dataclass(frozen=True)
class Settings:
    """Process-wide settings for the time of a block.

    Arguments:
        matmul: Precision of float32 matrix products in ``torch.set_float32_matmul_precision`` 's words: ``highest``,
            ``high`` or ``medium``.
        threads: Number of threads that a tensor operation may use, at least 1.
        lossy: Whether products may be computed in bfloat16.

    Raises:
        InputError: If a setting is none of these.
    """

    matmul: str
    threads: int
    lossy: bool = False

    def __post_init__(self) -> None:
        choice("matmul", self.matmul, MATMULS)
        whole("threads", self.threads, most=MOST_THREADS)
        flag("lossy", self.lossy)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Enter the settings and flush denormals (such as Adam's moments of pixels rarely lit)."""
        before = torch.get_float32_matmul_precision(), torch.get_num_threads(), _flushes_denormals()
        try:
            _enter(self.matmul, self.threads, True)
            yield
        finally:
            _enter(*before)


@contextmanager
def current_device(device: torch.device) -> Iterator[None]:
    """Make a GPU the current one for a block: graphs are captured on the current one, whatever their tensors' is."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        yield


def find_device(name: str | torch.device = "auto") -> torch.device:
    """A device that is there.

    Raises:
        InputError: If the named device is not on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.zeros(1, device=name).item()  # a device that cannot compute, such as meta, fails here
    except (TypeError, RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {str(name)!r} is not on this machine: give cpu or auto") from error
    return torch.device(name)


def find_settings(product: tuple[int, int, int] | None, device: torch.device, precision: Precision) -> Settings:
    """Settings for a training whose largest product is (rows, inner, columns); ``None`` for no product.

    They follow from the processor, the process's own settings and the product's size alone, so that equal trainings
    get equal ones whatever the load.

    Raises:
        InputError: If ``precision`` is unknown.
    """
    if precision not in ("float32", "bfloat16", "auto"):
        raise InputError(f"unknown precision {precision!r}: give one of float32, bfloat16, auto")
    own = Settings(torch.get_float32_matmul_precision(), torch.get_num_threads())
    if device.type != "cpu":
        return Settings(own.matmul if precision == "float32" else "medium", own.threads, precision != "float32")
    if product is None:
        return own
    lossy = _relative_error("medium", product) >= LOSSLESS
    wanted = _is_amd() if not lossy else precision != "float32"
    return Settings("medium" if wanted else own.matmul, _threads(product, own.threads), wanted and lossy)


def settings_of_state(saved: Mapping[str, Any], own: Settings, device: torch.device) -> Settings:
    """Settings that a state was trained with, to go on with; this machine's where another kind of one saved it.

    Arguments:
        saved: ``matmul``, ``threads`` and ``lossy`` of the settings, and the kind of ``device``.
        own: The settings that were found here.
        device: The device here.

    Raises:
        InputError: If they are none.
    """
    check_kinds(saved, {"matmul": str, "threads": int, "lossy": bool, "device": str})
    if saved["matmul"] not in MATMULS or not 1 <= saved["threads"] <= MOST_THREADS:
        raise InputError("the state's settings of the processor are none: it is damaged")
    found = Settings(saved["matmul"], saved["threads"], saved["lossy"])
    if saved["device"] != device.type:
        return own
    rounds_alike = device.type != "cpu" or (_relative_error(found.matmul, EXAMPLE) >= LOSSLESS) == found.lossy
    if found.lossy != own.lossy or not rounds_alike:
        logger.warning("the state comes from another precision or kind of processor: what follows rounds otherwise")
        return own
    return found


def largest_product(parameters: Iterable[Tensor], rows: int) -> tuple[int, int, int] | None:
    """(rows, inner, columns) of the product with the largest float32 matrix; ``None`` where there is none."""
    matrices = [p.shape for p in parameters if p.dim() == 2 and p.dtype == torch.float32]
    columns, inner = max(matrices, key=torch.Size.numel, default=(0, 0))
    return (rows, inner, columns) if matrices else None


def _threads(product: tuple[int, int, int], most: int) -> int:
    """All, half, a quarter, ... one: small products lose more to waiting for many threads than they gain."""
    rows, inner, columns = product
    return next((n for n in (most >> i for i in range(most.bit_length())) if rows * inner * columns >= n * WORK), 1)


def _is_amd() -> bool:
    """Whether AMD made the processor: Linux tells it in a file, Windows in the processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    return "AuthenticAMD" in (cpuinfo.read_text() if cpuinfo.exists() else platform.processor())


def _relative_error(matmul: str, product: tuple[int, int, int]) -> float:
    rows, inner, columns = product
    generator = torch.Generator().manual_seed(0)  # its own generator, not the global one
    a = torch.randn(rows, inner, generator=generator)
    b = torch.randn(inner, columns, generator=generator)
    exact = a.double() @ b.double()
    with Settings(matmul, torch.get_num_threads()).applied():
        return ((a @ b - exact).norm() / exact.norm()).item()


def _enter(matmul: str, threads: int, flush: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(flush)


def _flushes_denormals() -> bool:
    """torch has no getter: a denormal product tells."""
    return (torch.full((1,), 1e-30) * 1e-10).item() == 0.0
