import math

import pytest
import torch
from torch import nn

from ganglion.core.errors import ConfigurationError
from ganglion.training import EarlyStopping, KeepBest, ReduceOnPlateau
from ganglion.training.callbacks import Callback, History, Reporter, Training
from ganglion.training.observers import Observers


class Watch:
    def __init__(self):
        self.seconds = 0.0

    def now(self):
        return self.seconds

    def monotonic(self):
        return self.seconds


@pytest.fixture
def training():
    return Training(nn.Linear(1, 1), steps=40, steps_per_epoch=10)


def epochs_until_stop(callback, training, values):
    for epoch, value in enumerate(values, start=1):
        callback.on_epoch_end(training, epoch, {"loss": value, "accuracy": value})
        if training.stopped:
            return epoch
    return None


def test_early_stopping_waits_as_long_as_its_patience(training):
    callback = EarlyStopping(metric="loss", patience=2)
    assert epochs_until_stop(callback, training, [1.0, 0.5, 0.6, 0.4, 0.4, 0.41, 0.1]) == 6
    assert "loss has not improved on 0.4 since epoch 4" in training.stopped


def test_early_stopping_takes_more_for_better_where_that_is_meant(training):
    assert epochs_until_stop(EarlyStopping(metric="accuracy"), training, [0.5, 0.6, 0.7]) is None


def test_early_stopping_ignores_small_improvements(training):
    assert epochs_until_stop(EarlyStopping(metric="accuracy", least=0.05), training, [0.5, 0.6, 0.62]) == 3


def test_a_metric_that_is_not_a_number_is_no_improvement(training):
    assert epochs_until_stop(EarlyStopping(metric="loss"), training, [math.nan, 0.5]) == 1


def test_watching_what_is_not_measured_names_what_is(training):
    with pytest.raises(ConfigurationError, match=r"'acuracy', which is not measured.*accuracy, loss.*Did you mean"):
        KeepBest(metric="acuracy").on_epoch_end(training, 1, {"loss": 1.0, "accuracy": 0.5})


def test_the_best_model_is_put_back_with_its_metrics(training):
    callback = KeepBest(metric="accuracy")
    for epoch, accuracy in enumerate([0.5, 0.9, 0.7], start=1):
        nn.init.constant_(training.model.weight, epoch)
        training.metrics = {"accuracy": accuracy}
        callback.on_epoch_end(training, epoch, training.metrics)
    callback.on_train_end(training)
    assert training.model.weight == torch.tensor(2.0)
    assert training.metrics == {"accuracy": 0.9}


def test_speed_counts_training_and_not_evaluation(training):
    watch = Watch()
    history = History(watch)
    watch.seconds = 100.0
    history.on_train_start(training)
    for epoch in (1, 2):
        watch.seconds += 2
        training.records += 600
        history.on_step_end(training)
        watch.seconds += 50  # evaluation
        history.on_epoch_end(training, epoch, {"train_loss": 1 / epoch})
    assert history.epochs == [
        {"epoch": 1, "train_loss": 1.0, "images_per_second": 300.0},
        {"epoch": 2, "train_loss": 0.5, "images_per_second": 300.0},
    ]


def test_progress_is_reported_now_and_then_and_every_epoch(training):
    watch, reports = Watch(), []
    history = History(watch)
    reporter = Reporter(reports.append, history, interval=0.5, clock=watch)
    history.on_train_start(training)
    for step in range(1, 11):
        watch.seconds += 0.2
        training.step, training.records, training.loss = step, step * 8, 1.5
        for callback in (history, reporter):
            callback.on_step_end(training)
    for callback in (history, reporter):
        callback.on_epoch_end(training, 1, {"train_loss": 0.5, "accuracy": 0.75})
    assert [report["step"] for report in reports] == [1, 4, 7, 10, 10]
    assert reports[0] == {"progress": 0.025, "step": 1, "steps": 40, "step_loss": 1.5}
    assert reports[-1] == {
        "progress": 0.25,
        "step": 10,
        "steps": 40,
        "epoch": 1,
        "epochs": 4,
        "train_loss": 0.5,
        "accuracy": 0.75,
        "images_per_second": 40.0,
    }


def test_a_replica_of_a_callback_decides_as_the_original_does(training):
    original, replica = EarlyStopping(metric="loss", patience=2), EarlyStopping(metric="loss", patience=2)
    epochs_until_stop(original, training, [1.0, 0.5, 0.6])
    replica.set_state(original.get_state())
    assert epochs_until_stop(replica, training, [0.7]) == 1


def test_a_replica_of_a_history_goes_on_with_its_own_watch(training):
    watches = Watch(), Watch()
    watches[1].seconds = 7000.0
    original, replica = map(History, watches)
    original.on_train_start(training)
    watches[0].seconds += 3
    original.on_step_end(training)
    replica.set_state(original.get_state())
    watches[1].seconds += 1
    training.records = 400
    replica.on_step_end(training)
    replica.on_epoch_end(training, 1, {})
    assert replica.epochs == [{"epoch": 1, "images_per_second": 100.0}]


def test_callbacks_of_rank_0_begin_anew_where_it_is_lost(training):
    heard = []

    class Chief(Callback):
        def on_train_start(self, _training):
            heard.append("start")

        def on_step_end(self, _training):
            heard.append("step")

    observers = Observers([Chief(), History(Watch())], training)
    observers.start(1)
    observers.step(1)
    assert heard == []
    observers.step(0)
    observers.step(0)
    assert heard == ["start", "step", "step"]
    assert list(observers.get_state()) == [1]


def test_the_learning_rate_is_lowered_on_a_plateau_and_again(training):
    callback = ReduceOnPlateau(metric="loss", patience=2, factor=0.5)
    scales = []
    for epoch, value in enumerate([1.0, 0.9, 0.95, 0.91, 0.8, 0.8, 0.8], start=1):
        callback.on_epoch_end(training, epoch, {"loss": value})
        scales.append(training.scale)
    assert scales == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_an_error_is_better_when_it_is_less(training):
    assert EarlyStopping(metric="mean_squared_error").mode == "min"
    assert EarlyStopping(metric="r2").mode == "max"
