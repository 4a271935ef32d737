"""TensorBoard, through ``torch.utils.tensorboard``."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pyro_aevb.errors import path, whole
from pyro_aevb.trackers.base import Closing, needed, picture_of

__all__ = ["TensorBoard"]


class TensorBoard(Closing):
    """Writes files that ``tensorboard --logdir`` shows; ``pip install "pyro_aevb[tensorboard]"``.

    Each report is on disk when ``log_metrics`` returns. TensorBoard keeps numbers in single precision.

    Arguments:
        folder: Where the files go; made where it is missing.
        seen: Number of samples seen before, of a training that goes on: what was written of later ones, by a process
            that was killed after its last save, is no longer shown. By default nothing is taken back.

    Raises:
        InputError: If tensorboard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str], *, seen: int | None = None) -> None:
        self.folder = path("folder", folder)
        after = None if seen is None else whole("seen", seen, least=0) + 1
        library = needed("torch.utils.tensorboard", "tensorboard")
        self.writer = library.SummaryWriter(str(self.folder), purge_step=after)
        """The ``SummaryWriter``, for whatever else TensorBoard shows."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """As of :class:`~pyro_aevb.trackers.Tracker`: a table of text."""
        lines = [f"| {name} | {_cell(value)} |" for name, value in params.items()]
        self.writer.add_text("params", "\n".join(["| parameter | value |", "| --- | --- |", *lines]), 0)
        self.writer.flush()

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """As of :class:`~pyro_aevb.trackers.Tracker`: a scalar each."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def add_figure(self, name: str, figure: Figure, step: int) -> None:
        """As of :class:`~pyro_aevb.trackers.Tracker`: an image."""
        self.writer.add_image(name, np.asarray(picture_of(figure)), step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        """End the file."""
        self.writer.close()


def _cell(value: Any) -> str:
    """A value in one cell of a table."""
    return str(value).replace("|", "\\|").replace("\n", " ")
