"""A run says how it ended, and its report is there, whichever way that was."""

from __future__ import annotations

import json

import pytest

from trainer.errors import UserError
from trainer.report import ending, single

TRAINERS = '''

class Ending(Trainer):
    """Ends as it is told to."""
    def __init__(self, kind: str = "", **others):
        super().__init__(**others)
        self.kind = kind
    def fit(self, objective, datamodule, ckpt_path):
        if self.kind == "user":
            raise UserError("generator/loss is nan at kimg 1.0: lower the learning rate")
        if self.kind == "bug":
            raise RuntimeError("shapes <differ>")
        if self.kind == "abort":  # as Lightning hands on a second Ctrl-C
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt:
                raise SystemExit(1)
        if self.kind == "early":  # a signal before training is under way
            raise SystemExit(143)
'''

ENDS = {
    "finished": ([], 0, "finished", None),
    "signal": (["+callbacks.stop={_target_: standin.Part, signal: 15}"], 143, "stopped", "SIGTERM"),
    "Ctrl-C": (["+callbacks.stop={_target_: standin.Part, signal: 2}"], 130, "stopped", "Ctrl-C"),
    "user's mistake": (
        ["+trainer.kind=user"],
        2,
        "failed",
        "generator/loss is nan at kimg 1.0: lower the learning rate",
    ),
    "bug": (["+trainer.kind=bug"], 1, "failed", "RuntimeError: shapes <differ>"),
    "second Ctrl-C": (["+trainer.kind=abort"], 1, "stopped", "aborted by Ctrl-C, without a last checkpoint"),
    "early signal": (["+trainer.kind=early"], 143, "stopped", "SIGTERM"),
}


@pytest.fixture
def endings(project):
    with open(project / "standin.py", "a") as file:
        file.write(TRAINERS)
    config = project / "conf/trainer/default.yaml"
    config.write_text(config.read_text().replace("standin.Trainer", "standin.Ending"))
    return project


@pytest.mark.parametrize("case", ENDS)
def test_every_end_is_told(endings, command, case):
    arguments, code, state, reason = ENDS[case]
    result = command("experiment=small", "run_dir=here", *arguments)
    assert result.code == code, result.err
    end = json.loads((endings / "here/end.json").read_text())
    assert (end["state"], end.get("reason")) == (state, reason)
    assert ("traceback" in end) == (case == "bug")
    page = (endings / "here/report.html").read_text()
    assert f'<span class="state {state}">' in page
    assert "report         here/report.html" in result.out
    if case == "bug":
        assert "RuntimeError: shapes &lt;differ&gt;" in page
        assert "in fit" in page


def test_a_report_that_fails_hides_no_error(endings, command, monkeypatch):
    def fail(folder):
        raise OSError("no space")

    monkeypatch.setattr(single, "write", fail)
    result = command("experiment=small", "run_dir=here", "+trainer.kind=user")
    assert result.code == 2
    assert "no report: OSError: no space" in result.err
    assert result.err.splitlines()[-1].startswith("generator/loss is nan")
    assert json.loads((endings / "here/end.json").read_text())["state"] == "failed"


def test_an_end_is_forgotten_when_the_run_goes_on(tmp_path):
    (tmp_path / "end.json").write_text('{"state": "failed"}')
    with pytest.raises(UserError), ending.record_ending(tmp_path, lambda: 0):
        assert not (tmp_path / "end.json").exists()
        raise UserError("once more")


def test_a_mistake_before_the_run_leaves_nothing_behind(endings, command):
    assert command("experiment=small", "run_dir=here", "data.source=bad").code == 2
    assert not list((endings / "here").iterdir())
