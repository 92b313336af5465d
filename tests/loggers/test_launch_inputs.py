import subprocess
import sys

from trainer.loggers.launch_inputs import StagedLaunchInputs, none_staged

RUN = """
import sys, wandb
from trainer.loggers.launch_inputs import none_staged
with none_staged():
    run = wandb.init(mode="offline", dir=sys.argv[1], settings=wandb.Settings(silent=True))
run.log({"a": 1})
print(any(name.startswith(("wandb.sdk.launch", "wandb.apis.public.artifacts")) for name in sys.modules))
from wandb.sdk.launch.inputs.internal import StagedLaunchInputs
print(hasattr(StagedLaunchInputs, "add_staged_input"))
run.finish()
"""


def test_a_run_starts_without_the_code_of_jobs_and_whoever_wants_that_has_it(tmp_path):
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["False", "True"]


def test_inputs_that_are_staged_are_left_to_wandb(monkeypatch):
    from wandb.sdk.launch.inputs import internal

    with none_staged():
        from wandb.sdk.launch.inputs.internal import StagedLaunchInputs as Found
    assert Found is internal.StagedLaunchInputs is not StagedLaunchInputs
    monkeypatch.delitem(sys.modules, internal.__name__)
    with none_staged():
        from wandb.sdk.launch.inputs.internal import StagedLaunchInputs as Found
    assert Found is StagedLaunchInputs and internal.__name__ not in sys.modules
