import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers.logger import Logger

from trainer.callbacks.checkpoint import Checkpoint
from trainer.callbacks.throughput import Throughput, peak_gib


class Rows(Logger):
    name, version = "rows", ""

    def __init__(self):
        super().__init__()
        self.rows = {}

    def log_hyperparams(self, *_, **__): ...

    def log_metrics(self, metrics, step):
        self.rows[step] = metrics


class Clock:
    """Moves only when told: machines that run tests are busy."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def process_time(self):
        return self.now / 2  # half of it with others

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(objective, data, monkeypatch):
    """A loader and a step that take 5 ms and 15 ms."""
    clock = Clock()
    monkeypatch.setattr("trainer.callbacks.throughput.time", clock)
    step, loader = objective.training_step, data.train_dataloader

    def training_step(batch):
        step(batch)
        clock.sleep(0.015)

    def slowly():
        for batch in loader():
            clock.sleep(0.005)
            yield batch

    monkeypatch.setattr(objective, "training_step", training_step)
    monkeypatch.setattr(data, "train_dataloader", slowly)
    return clock


class Sleep(Callback):
    """Takes `seconds` at the end of the steps in `steps`."""

    def __init__(self, clock, seconds, steps):
        self.clock, self.seconds, self.steps = clock, seconds, steps

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step in self.steps:
            self.clock.sleep(self.seconds)


def test_speed_and_wait_without_warm_up_and_pauses(objective, data, make_trainer, clock):
    rows = Rows()
    slow_start = Sleep(clock, 0.5, {1, 2, 3})  # before it in the list: part of the step
    callbacks = [slow_start, Throughput(every_steps=10, warmup_steps=3), Sleep(clock, 0.3, {2, 10, 13, 16})]
    make_trainer(callbacks, max_steps=20, logger=rows).fit(objective, data)
    assert list(rows.rows) == [10, 20]
    for row in rows.rows.values():
        assert row["throughput/step_ms"] == pytest.approx(20, rel=1e-4)
        assert row["throughput/images_per_second"] == pytest.approx(4 / 0.020, rel=1e-4)
        assert row["throughput/images_per_second_per_rank"] == row["throughput/images_per_second"]
        assert row["throughput/data_wait_percent"] == pytest.approx(25, rel=1e-4)


def test_phases_are_timed_on_few_steps(objective, data, make_trainer):
    rows = Rows()
    make_trainer([Throughput(every_steps=10, phases_every=5)], max_steps=20, logger=rows).fit(objective, data)
    assert [step for step, timed in enumerate(objective.seen_timing, start=1) if timed] == [5, 10, 15, 20]
    assert rows.rows[20]["throughput/discriminator_ms"] == 250
    assert rows.rows[20]["throughput/generator_ms"] == 500


def test_pauses_at_every_step_do_not_count(objective, data, make_trainer, clock):
    rows = Rows()
    callbacks = [Throughput(every_steps=5, warmup_steps=1), Sleep(clock, 0.5, range(100))]
    make_trainer(callbacks, max_steps=10, logger=rows).fit(objective, data)
    assert [row["throughput/step_ms"] for row in rows.rows.values()] == pytest.approx([20, 20], rel=1e-4)


def test_minutes_are_of_all_that_the_run_does(objective, data, make_trainer, clock):
    rows = Rows()
    clock.sleep(100)  # imports, data
    callbacks = [Throughput(every_steps=5, warmup_steps=2), Sleep(clock, 60, {3})]
    make_trainer(callbacks, max_steps=10, logger=rows).fit(objective, data)
    minutes = [row["throughput/device_minutes"] for row in rows.rows.values()]
    assert minutes == pytest.approx([(160 + 5 * 0.02) / 120, (160 + 10 * 0.02) / 120], rel=1e-4)


def test_minutes_go_on_in_a_resumed_run(objective, data, make_trainer, tmp_path, clock):
    def start(steps, **resumed):
        rows = Rows()
        callbacks = [Throughput(every_steps=5, warmup_steps=2), Checkpoint(times=1)]
        make_trainer(callbacks, max_steps=steps, logger=rows).fit(type(objective)(), data, **resumed)
        return [row["throughput/device_minutes"] for row in rows.rows.values()][-1]

    clock.sleep(100)
    whole = start(5)
    saved = str(tmp_path / "checkpoints" / "kimg000000.020.ckpt")
    assert whole == pytest.approx(100 / 120, rel=1e-2)
    again = start(10, ckpt_path=saved, weights_only=True)  # this clock goes on, that of a new process begins anew
    assert again == pytest.approx(whole + clock.process_time() / 60, rel=1e-2)


def test_peak_memory_grows_with_what_is_held():
    before = peak_gib(torch.device("cpu"))
    held = torch.ones(2**27)  # half a GiB
    assert peak_gib(torch.device("cpu")) >= max(before, 0.5)
    assert held.sum() == 2**27


def test_it_speaks_again_after_a_resume(objective, data, make_trainer, tmp_path):
    make_trainer([Throughput(every_steps=5, warmup_steps=2), Checkpoint(times=1)], max_steps=5).fit(objective, data)
    saved = str(tmp_path / "checkpoints" / "kimg000000.020.ckpt")
    rows = Rows()
    again = make_trainer([Throughput(every_steps=5, warmup_steps=2)], max_steps=10, logger=rows)
    again.fit(type(objective)(), data, ckpt_path=saved, weights_only=True)
    assert list(rows.rows) == [10]
    assert "throughput/images_per_second" in rows.rows[10]
