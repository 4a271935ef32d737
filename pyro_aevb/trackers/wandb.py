"""Weights & Biases, offline unless the user says otherwise."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from pyro_aevb.errors import path
from pyro_aevb.trackers.base import Closing, needed, picture_of, remember, remembered, undisturbed

__all__ = ["WandB"]


class WandB(Closing):
    """Writes a run of Weights & Biases; ``pip install wandb``.

    It is offline: nothing leaves this machine, no account is needed, and ``wandb sync`` sends the folder later. With
    ``mode="online"``, or the environment variable ``WANDB_MODE``, it is sent at once. ``WANDB_DIR``, ``WANDB_PROJECT``,
    ``WANDB_RUN_ID`` and the library's other variables count as everywhere; its reports of its own errors are off
    unless ``WANDB_ERROR_REPORTING`` is set. Random states, streams and a run of the caller's own stay as they are; once
    in a process the library hooks into ``sys.exit`` and ``sys.excepthook``, by which it knows of crashes.

    Arguments:
        folder: Folder in which a folder ``wandb`` is made. The run's identifier is kept there, in ``run_id.txt``, so
            that another training from the same folder goes on with the same run.
        project: The project's name.
        name: The run's name; by default the library thinks of one.
        mode: ``offline``, ``online``, or ``disabled``; by default what ``WANDB_MODE`` says, and offline without it.

    Raises:
        InputError: If wandb is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        project: str = "pyro_aevb",
        name: str | None = None,
        mode: Literal["offline", "online", "disabled"] | None = None,
    ) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read on import, and by the process that writes
        library = needed("wandb", "wandb")
        own = path("folder", folder)
        known = own / "wandb" / "run_id.txt"
        place = Path(os.environ.get("WANDB_DIR") or own).resolve()  # the process that writes may be in another folder
        place.mkdir(parents=True, exist_ok=True)  # else the library takes a temporary folder
        here = mode or os.environ.get("WANDB_MODE") or "offline"
        with undisturbed():
            self.run = library.init(
                dir=str(place),
                project=os.environ.get("WANDB_PROJECT") or project,
                name=name,
                id=os.environ.get("WANDB_RUN_ID") or remembered(known),
                mode=here,
                resume="allow" if here == "online" else None,  # offline there is no run to ask after
                reinit="create_new",  # a run of the caller's own stays as it is
                settings=library.Settings(console="off", silent=here != "online"),
            )
            """The run, for whatever else Weights & Biases keeps."""
        self._library = library
        if here != "disabled":
            remember(known, self.run.id)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """As of :class:`~pyro_aevb.trackers.Tracker`: the run's configuration."""
        self.run.config.update(dict(params), allow_val_change=True)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """As of :class:`~pyro_aevb.trackers.Tracker`: a line of the run's history, which those of one step share."""
        self.run.log(dict(metrics), step=step)

    def add_figure(self, name: str, figure: Figure, step: int) -> None:
        """As of :class:`~pyro_aevb.trackers.Tracker`: an image of the step."""
        self.run.log({name: self._library.Image(picture_of(figure))}, step=step)

    def close(self) -> None:
        """Finish the run, as failed if the ``with`` block ended by an error.

        The library's own process may still write for a moment; Python waits for it when it ends.
        """
        self.run.finish(exit_code=int(self.failed))
