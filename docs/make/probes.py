"""Trains the probes of scenes that come with the package, anew: python docs/make/probes.py   (20 CPU minutes)"""

from trainer.runs import scenes_probe

for file in scenes_probe.BOX.glob("*"):
    file.unlink()
for resolution, max_objects in ((32, 1), (64, 1), (32, 3)):
    _, accuracy = scenes_probe.scenes_probe(resolution, max_objects, scenes_probe.BOX.parent)
    print(f"up to {max_objects} objects, {resolution} pixels: reads {accuracy:.2%} of other scenes", flush=True)
