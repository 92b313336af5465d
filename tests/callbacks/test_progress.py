import re

import pytest
from pytorch_lightning import Callback

from trainer.callbacks.checkpoint import Checkpoint
from trainer.callbacks.log import Log, record
from trainer.callbacks.progress import Progress, duration
from trainer.callbacks.throughput import Throughput
from trainer.text.labels import Nothing


def test_lines_panel_and_summary(objective, data, make_trainer, tmp_path, capsys):
    data.skipped = tmp_path / "skipped.txt"
    data.skipped.write_text("a.png\tcut off\nb.png\tcut off\n")
    callbacks = [Log(every_steps=1), Checkpoint(times=1), Progress(every_seconds=0)]
    make_trainer(callbacks, max_steps=5).fit(objective, data)
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("kimg")]
    assert len(lines) == 5
    pattern = r"kimg 0.0/0.02 \(40%\)  step 2  \d+ img/s  discriminator 1  generator 2  eta \d+s"
    assert re.fullmatch(pattern, lines[1])
    assert "experiment  tiny" in out
    assert "simplenamespace: 6 images to train on, 4 held out" in out
    assert f"python -m trainer.sample checkpoint={tmp_path} 'prompts=[a red apple]'" in out
    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("# tiny")
    assert f"| skipped | 2 corrupt images, listed in {data.skipped} |" in readme
    assert "kimg000000.020.ckpt" in readme


def test_a_model_without_text_is_drawn_without_a_prompt(objective, data, make_trainer, tmp_path, capsys):
    data.text = Nothing(width=3)
    make_trainer([Checkpoint(times=1), Progress()], max_steps=1).fit(objective, data)
    assert f"python -m trainer.sample checkpoint={tmp_path}\n" in capsys.readouterr().out


def test_shows_speed_wait_and_memory(objective, data, make_trainer, capsys):
    callbacks = [Throughput(every_steps=2, warmup_steps=0), Progress(every_seconds=60)]
    make_trainer(callbacks, max_steps=8).fit(objective, data)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("kimg"))
    assert re.search(r"step 8  [1-9]\d* img/s  wait \d+\.\d%  mem \d+\.\d GiB  eta 0s$", line)


@pytest.mark.parametrize("metric", ["fd_effnet", "fd_effnet2"])
def test_the_best_of_a_run_is_that_of_all_its_starts(objective, data, make_trainer, tmp_path, capsys, metric):
    class Measure(Callback):
        def on_train_batch_end(self, trainer, objective, *_):
            record(trainer, {f"val/{metric}": 80.0})

    rows = [f"step,progress/kimg,val/{metric}", "0,0,90.5", "1,,", "1,0.004,70.25", "9,0.036,3.0"]  # the last: given up
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    objective.images_seen = 4
    make_trainer([Measure(), Progress()], max_steps=1).fit(objective, data)
    out = capsys.readouterr().out
    assert re.search(rf"val/{metric} +last 80.00, best 70.25 at kimg 0.0", out) and f"  {metric} 80.0  " in out


def test_speaks_rarely(objective, data, make_trainer, capsys):
    make_trainer([Progress(every_seconds=60)], max_steps=5).fit(objective, data)
    assert sum(line.startswith("kimg") for line in capsys.readouterr().out.splitlines()) == 1  # the last step


@pytest.mark.parametrize(("seconds", "text"), [(8.2, "8s"), (192, "3m12s"), (3723, "1h02m")])
def test_durations(seconds, text):
    assert duration(seconds) == text
