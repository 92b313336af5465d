"""What taught a run does not judge it."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from trainer.errors import UserError
from trainer.runs.judges import require_untaught, taught_by

LITE = "trainer.backbones.effnet_lite.load"
DINO = "trainer.backbones.dinov2.load"


def run_with(*backbones):
    networks = {f"network{i}": {"_target_": "x.Projected", "parts": [{"backbone": b}]} for i, b in enumerate(backbones)}
    judge = {"evaluation": {"backbone": {"_target_": LITE}}}
    return {"objective": {"_target_": "x.GAN", **networks}, "callbacks": judge}


def test_backbones_are_found_at_any_depth_of_the_objective():
    lite, dino = {"_target_": LITE, "variant": 2}, {"_target_": DINO, "path": "x"}
    assert list(taught_by(run_with(lite, dino)["objective"])) == [lite, dino]
    assert list(taught_by(OmegaConf.create(run_with(lite)["objective"]))) == [lite]
    assert not list(taught_by({"_target_": "x.GAN", "betas": [0.0, 0.99], "matcher": None}))


@pytest.mark.parametrize(
    ("taught", "judge", "refused"),
    [
        ({"_target_": LITE}, {"_target_": LITE}, True),
        ({"_target_": LITE, "resolution": 32}, {"_target_": LITE, "resolution": 64, "variant": 0}, True),
        ({"_target_": "trainer.backbones.effnet_lite0.load"}, {"_target_": LITE}, True),
        ({"_target_": LITE}, {"_target_": LITE, "variant": 2}, False),
        ({"_target_": DINO}, {"_target_": DINO, "path": "facebook/dinov2-large"}, True),
        ({"_target_": DINO}, {"_target_": DINO, "path": "facebook/dinov2-base"}, False),
        ({"_target_": DINO}, {"_target_": LITE}, False),
    ],
)
def test_the_same_weights_do_not_judge(taught, judge, refused):
    of_export = {"objective": {"_target_": "x.TrainedGenerator"}, "backbones": [taught]}
    for config in (run_with({"_target_": "trainer.backbones.vgg.load"}, taught), of_export):
        if refused:
            with pytest.raises(UserError, match="taught a network of this run; another one has to judge: the remedy"):
                require_untaught(judge, config, "the remedy")
        else:
            require_untaught(judge, config, "the remedy")


def test_a_run_that_only_evaluates_by_it_is_judged():
    require_untaught({"_target_": LITE}, run_with(), "")
