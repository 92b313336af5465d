"""CPU seconds of a training by part: python tests/time_run.py +experiment=cgan kimg=0.64, as `python -m trainer` else.

User and system seconds of the process, all its threads and what it has started, so that a busy machine matters little.
"""

import atexit
import functools
import importlib.abc
import importlib.util
import os
import runpy
import sys
import time

HOOKS = ("setup", "on_fit_start", "on_train_start", "on_train_batch_end", "on_train_end", "teardown")
FUNCTIONS = {  # module -> class -> methods; "" for functions of the module
    "trainer.objectives.base": {"Objective": ("training_step",)},
    "trainer.data.module": {"DataModule": ("prepare",)},
    "trainer.data.stream": {"Stream": ("__getitem__",)},
    "trainer.loggers.wandb": {"WandB": ("_start", "log_metrics", "log_image", "log_model", "finalize")},
    "trainer.config.signatures": {"": ("check",)},
}
STARTED = time.perf_counter()
seconds: dict[str, list[float]] = {}  # calls, seconds without those of parts within
nested: list[float] = []


def cpu():
    return sum(os.times()[:4])


def timed(name, function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        start = cpu()
        nested.append(0.0)
        try:
            return function(*args, **kwargs)
        finally:
            spent, own = cpu() - start, seconds.setdefault(name, [0, 0.0])
            own[0] += 1
            own[1] += spent - nested.pop()
            if nested:
                nested[-1] += spent

    return call


def watch(module):
    methods = dict(FUNCTIONS.get(module.__name__, {}))
    if module.__name__.startswith("trainer.callbacks."):
        methods = {n: HOOKS for n, c in vars(module).items() if isinstance(c, type) and c.__module__ == module.__name__}
    for owner, names in methods.items():
        place = getattr(module, owner) if owner else module
        for name in names:
            if name in vars(place):
                setattr(place, name, timed(f"{owner or module.__name__}.{name}", vars(place)[name]))


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if not name.startswith("trainer.") or name == "trainer.__main__":
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec and spec.loader:
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (execute(module), watch(module))
        return spec


def tell():
    whole = cpu()
    seconds["the rest: start, loop, end"] = [1, whole - sum(own for _, own in seconds.values())]
    print(f"{whole:8.2f} CPU s in {time.perf_counter() - STARTED:.0f} s")
    for name, (calls, own) in sorted(seconds.items(), key=lambda entry: -entry[1][1]):
        if own >= 0.05:
            print(f"{own:8.2f}  {name}  x {calls}")


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    sys.meta_path.insert(0, Finder())
    atexit.register(tell)
    runpy.run_module("trainer", run_name="__main__", alter_sys=True)
