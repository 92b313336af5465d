"""How long features take beside torch-fidelity's: python tests/backbones/time_inception.py [images] [pixels]."""

import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.backbones.reference import reference_inception
from trainer.backbones.inception import build


def main(num_images=16, pixels=64, times=5):
    theirs = reference_inception()
    ours = {resizer: build(theirs.state_dict(), resizer) for resizer in ("legacy", "clean")}
    images = torch.randint(0, 256, (num_images, 3, pixels, pixels), dtype=torch.uint8)

    def theirs_features(images):
        with torch.no_grad():
            return theirs(images)[0]

    runs = {"torch-fidelity": theirs_features} | {name: network.features for name, network in ours.items()}
    clocks = (time.perf_counter, time.process_time)  # on a busy machine only the second says much
    seconds = {name: [] for name in runs}
    for _ in range(times + 1):
        for name, run in runs.items():  # in turns, so that what else the machine does meets all
            began = [clock() for clock in clocks]
            run(images)
            seconds[name].append([clock() - start for clock, start in zip(clocks, began, strict=True)])
    medians = {
        name: [statistics.median(each) for each in zip(*rows[1:], strict=True)] for name, rows in seconds.items()
    }
    for name, each in medians.items():
        wall, cpu = (1000 * median / num_images for median in each)
        faster, cheaper = (one / other for one, other in zip(medians["torch-fidelity"], each, strict=True))
        print(
            f"{name:15} {wall:6.1f} ms an image, {faster:.2f} times the speed; CPU {cpu:6.1f} ms, {cheaper:.2f} times"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
