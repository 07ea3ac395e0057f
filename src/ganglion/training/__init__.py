"""Training: a model, its data and a plan in; a model package with held-out metrics out.

A `TrainingPlan` is plain data; `gang` turns it into a spec, `fit` runs that and waits. What a worker does is in
`worker`, `loop` and below; importing this package loads none of it, nor torch, so that planning stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ganglion.core.registry import lazy_names

if TYPE_CHECKING:
    from ganglion.training.callbacks import Callback, EarlyStopping, KeepBest, ReduceOnPlateau
    from ganglion.training.evaluation import evaluate, predict
    from ganglion.training.fitting import fit
    from ganglion.training.metrics import Metric
    from ganglion.training.plan import Export, Factory, Optimizer, TrainingPlan, gang
    from ganglion.training.result import TrainingResult
    from ganglion.training.schedule import Schedule
    from ganglion.training.source import BatchSource
    from ganglion.training.tensorboard import TensorBoard

__all__ = [
    "BatchSource",
    "Callback",
    "EarlyStopping",
    "Export",
    "Factory",
    "KeepBest",
    "Metric",
    "Optimizer",
    "ReduceOnPlateau",
    "Schedule",
    "TensorBoard",
    "TrainingPlan",
    "TrainingResult",
    "evaluate",
    "fit",
    "gang",
    "predict",
]

_MODULES = {
    "BatchSource": "source",
    "Callback": "callbacks",
    "EarlyStopping": "callbacks",
    "Export": "plan",
    "Factory": "plan",
    "KeepBest": "callbacks",
    "Metric": "metrics",
    "Optimizer": "plan",
    "ReduceOnPlateau": "callbacks",
    "Schedule": "schedule",
    "TensorBoard": "tensorboard",
    "TrainingPlan": "plan",
    "TrainingResult": "result",
    "evaluate": "evaluation",
    "fit": "fitting",
    "gang": "plan",
    "predict": "evaluation",
}

__getattr__ = lazy_names(__name__, _MODULES)
