"""How long features take beside torch-fidelity's: python tests/backbones/time_inception.py [images] [pixels]."""

import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.backbones.reference import reference_inception
from trainer.backbones.inception import build


def main(num_images=16, pixels=64, times=7):
    theirs = reference_inception()
    ours = {resizer: build(theirs.state_dict(), resizer) for resizer in ("legacy", "clean")}
    images = torch.randint(0, 256, (num_images, 3, pixels, pixels), dtype=torch.uint8)

    def theirs_features(images):
        with torch.no_grad():
            return theirs(images)[0]

    runs = {"torch-fidelity": theirs_features} | {name: network.features for name, network in ours.items()}
    seconds = {name: [] for name in runs}
    for _ in range(times + 1):
        for name, run in runs.items():  # in turns, so that what else the machine does meets all
            began = time.perf_counter()
            run(images)
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    for name, median in medians.items():
        ratio = medians["torch-fidelity"] / median
        print(f"{name:15} {1000 * median / num_images:7.1f} ms an image  {ratio:5.2f} times torch-fidelity's speed")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
