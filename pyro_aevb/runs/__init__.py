"""Runs on disk: :func:`pyro_aevb.load_run` opens one; the command line begins them, and goes on with them."""

from typing import TYPE_CHECKING, Any

from pyro_aevb.runs.origin import VersionsWarning

if TYPE_CHECKING:
    from pyro_aevb.runs.run import Run, load_run

__all__ = ["Run", "VersionsWarning", "load_run"]


if not TYPE_CHECKING:  # to which every name would then be one of the module's

    def __getattr__(name: str) -> Any:
        """Import what opens a run where it is asked for: ``pyro-aevb list`` opens none, and need not wait for it."""
        if name not in ("Run", "load_run"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from pyro_aevb.runs import run

        return getattr(run, name)


def __dir__() -> list[str]:
    """What there is, that which is not imported yet too."""
    return sorted({*globals(), *__all__})
