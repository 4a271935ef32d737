"""What people watch trainings with: TensorBoard, Weights & Biases, MLflow, or a tracker of your own.

A :class:`Tracker` takes parameters, metrics and figures. :func:`follow` gives it each report of a training and passes
the report on, so that the loop stays yours::

    with trackers.TensorBoard("logs/digits") as tracker:
        measure = trackers.bound_on(trainer, data.test)
        for progress in trackers.follow(trainer.run(1e6), tracker, measure=measure):
            print(progress.bound)

The step is the number of training samples seen, bounds are in nats per datum, and names are those of
:class:`~pyro_aevb.Progress` and of a run's ``metrics.jsonl``. Tracking changes no trained bit: global random states are
as before, and a tracker that raises is left out from then on, with a :class:`TrackerWarning`.

None of the three libraries is imported before its tracker is made, and by none of them is a network used unless its own
environment variables ask for it.
"""

from pyro_aevb.errors import TrackerWarning
from pyro_aevb.trackers.base import Several, Tracker, metrics_of, params_of
from pyro_aevb.trackers.following import bound_on, follow
from pyro_aevb.trackers.mlflow import MLflow
from pyro_aevb.trackers.of_run import TOOLS, check_tools, of_run
from pyro_aevb.trackers.tensorboard import TensorBoard
from pyro_aevb.trackers.wandb import WandB

__all__ = [
    "TOOLS",
    "MLflow",
    "Several",
    "TensorBoard",
    "Tracker",
    "TrackerWarning",
    "WandB",
    "bound_on",
    "check_tools",
    "follow",
    "metrics_of",
    "of_run",
    "params_of",
]
