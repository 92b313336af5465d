import csv
import math

import torch
from pytorch_lightning import Callback

from trainer.callbacks.log import Log, record
from trainer.loggers.csv import CSV


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_means_learning_rates_and_progress(objective, data, make_trainer, tmp_path):
    objective.loss = float
    make_trainer([Log(every_steps=4)], max_steps=10, logger=CSV(str(tmp_path / "metrics.csv"))).fit(objective, data)
    rows = table(tmp_path / "metrics.csv")
    assert [int(row["step"]) for row in rows] == [4, 8, 10]
    assert [float(row["discriminator/loss"]) for row in rows] == [1.5, 5.5, 8.5]
    assert [float(row["progress/kimg"]) for row in rows] == [0.016, 0.032, 0.04]
    assert float(rows[0]["generator/learning_rate"]) == 0.01


def test_a_lazy_term_is_averaged_over_its_own_steps(objective, data, make_trainer):
    class Lazy(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            if trainer.global_step % 2:
                module.logs["discriminator/r1"] = torch.tensor(float(trainer.global_step))

    trainer = make_trainer([Lazy(), Log(every_steps=4)], max_steps=4)
    trainer.fit(objective, data)
    assert math.isclose(trainer.callback_metrics["discriminator/r1"], 2.0)


def test_metrics_of_one_step_share_a_row(objective, data, make_trainer, tmp_path):
    class Late(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            if trainer.global_step in (3, 4):
                record(trainer, {"val/thing": float(trainer.global_step)})

    logger = CSV(str(tmp_path / "metrics.csv"))
    make_trainer([Log(every_steps=2), Late()], max_steps=6, logger=logger).fit(objective, data)
    rows = table(tmp_path / "metrics.csv")
    assert [int(row["step"]) for row in rows] == [2, 3, 4, 6]
    assert [row["val/thing"] for row in rows] == ["", "3.0", "4.0", ""]
    assert [row["generator/loss"] for row in rows] == ["2.0", "", "2.0", "2.0"]


def test_a_resumed_run_repeats_no_step(tmp_path):
    path = tmp_path / "metrics.csv"
    first = CSV(str(path))
    for step in (10, 20, 30, 40):
        first.log_metrics({"loss": float(step)}, step)
    second = CSV(str(path))  # resumed from a checkpoint of step 25
    second.log_metrics({"loss": -30.0}, 30)
    second.log_metrics({"loss": -40.0, "new": 1.0}, 40)
    rows = table(path)
    assert [(row["step"], row["loss"]) for row in rows] == [
        ("10", "10.0"),
        ("20", "20.0"),
        ("30", "-30.0"),
        ("40", "-40.0"),
    ]
    assert [row["new"] for row in rows] == ["", "", "", "1.0"]
