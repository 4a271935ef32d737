"""MLflow, in a database of one file unless the user names a server."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pyro_aevb.errors import path
from pyro_aevb.trackers.base import Closing, needed, remember, remembered, undisturbed

__all__ = ["MLflow"]


class MLflow(Closing):
    """Writes a run of MLflow; ``pip install mlflow``.

    It goes into the SQLite file ``mlflow.db`` of a folder, and figures into ``artifacts`` beside it; with the
    environment variable ``MLFLOW_TRACKING_URI`` to where that leads. MLflow's reports of how it is used are off unless
    ``MLFLOW_DISABLE_TELEMETRY`` is set.

    Arguments:
        folder: The folder. The run's identifier is kept there, in ``run_id.txt``, so that another training from the
            same folder goes on with the same run.
        experiment: The experiment's name; ``MLFLOW_EXPERIMENT_NAME`` counts before it.
        name: The run's name; by default the folder's.

    Raises:
        InputError: If mlflow is not installed.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, experiment: str = "pyro_aevb", name: str | None = None
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read on import
        library = needed("mlflow", "mlflow")
        self.folder = path("folder", folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        known = self.folder / "run_id.txt"
        self._kinds = library.entities
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or experiment
        with undisturbed():
            elsewhere = os.environ.get("MLFLOW_TRACKING_URI")
            self.client = library.MlflowClient(elsewhere or f"sqlite:///{self.folder / 'mlflow.db'}")
            """The ``MlflowClient``, for whatever else MLflow keeps of the run :attr:`run_id`."""
            self._last = _Last(self.client, remembered(known), library.exceptions.MlflowException)
            self.run_id = self._last.run_id or self._begin(experiment, name, None if elsewhere else self.folder)
            """The run's identifier."""
        remember(known, self.run_id)

    def _begin(self, experiment: str, name: str | None, local: Path | None) -> str:
        found = self.client.get_experiment_by_name(experiment)
        artifacts = None if local is None else (local / "artifacts").as_uri()
        number = found.experiment_id if found else self.client.create_experiment(experiment, artifacts)
        return str(self.client.create_run(number, run_name=name or self.folder.name).info.run_id)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """As of :class:`~pyro_aevb.trackers.Tracker`; what has another value on resumption, which MLflow refuses,
        is kept as a tag of the same name.
        """
        there = self.client.get_run(self.run_id).data.params
        texts = {name: str(value) for name, value in params.items()}
        new = [self._kinds.Param(name, text) for name, text in texts.items() if name not in there]
        other = [self._kinds.RunTag(name, text) for name, text in texts.items() if there.get(name, text) != text]
        self.client.log_batch(self.run_id, params=new, tags=other)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """As of :class:`~pyro_aevb.trackers.Tracker`; a step that the run has already, of a training that was killed
        after its last save and passes it again, is not written twice.
        """
        now = time.time_ns() // 1_000_000
        new = {name: float(value) for name, value in metrics.items() if step > self._last.step_of(name)}
        self.client.log_batch(self.run_id, [self._kinds.Metric(name, value, now, step) for name, value in new.items()])

    def add_figure(self, name: str, figure: Figure, step: int) -> None:
        """As of :class:`~pyro_aevb.trackers.Tracker`: an artifact, whose name has the step."""
        self.client.log_figure(self.run_id, figure, f"figures/{name}-{step}.png")

    def close(self) -> None:
        """Mark the run as finished, or as failed if the ``with`` block ended by an error."""
        self.client.set_terminated(self.run_id, "FAILED" if self.failed else "FINISHED")


class _Last:
    """What a run that is gone on with has already."""

    def __init__(self, client: Any, run_id: str | None, unknown: type[Exception]) -> None:
        self.client = client
        self.run_id: str | None = None
        self._steps: dict[str, int] = {}
        if run_id is not None:
            with suppress(unknown):  # of another database than this one
                client.update_run(run_id, status="RUNNING")
                self.run_id = run_id

    def step_of(self, name: str) -> int:
        """The last step of a metric in there, -1 where there is none."""
        if self.run_id is None:
            return -1
        if name not in self._steps:
            history = self.client.get_metric_history(self.run_id, name)
            self._steps[name] = max((metric.step for metric in history), default=-1)
        return self._steps[name]
