"""Families of models beside those of the matrix: two ranks equal one process under every strategy.

Each of them within 1e-5, with one of three seeds. A unit within rounding of its kink, or a vector of the border between
two codes, may fall on the other side on two ranks, and a run goes another way from there; an error in a strategy would
do so with every seed.
"""

import pytest
from matrix import STRATEGIES, difference, differences, result, run

OBJECTIVES = (  # a row a day, under every strategy
    ("matching", "taught", "fsq"),  # the first two contrast all of a batch, on several ranks too
    ("patches", "projected", "vq"),
    ("regularized", "vqgan", "gsn"),
    ("multilevel", "multilevel+split", "latents"),
    ("stylegan2", "stylegan2+split", "dalle"),
    ("attngan", "stages", "maskgit"),
    ("inpainting", "inpainting+split", "denoising", "source_dropout", "captioning"),
    ("super_resolution", "colorization", "restoration", "enhancement"),
    ("pix2pix", "pix2pix+split", "cyclegan", "cyclegan+split"),
    ("captioning_vae", "textgan", "sizes", "sizes_fsq", "sizes_matching"),
    ("progressive", "vae_gan", "vae_gan+split", "worded"),
    ("reward", "reward_tokens", "reward_maskgit"),
)
SEEDS = (2, 3, 4)


def case_of(name, seed):
    return f"{name}/fp32/seed={seed}"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """name, seed -> the result of one process, trained when it is first asked for with others."""
    folder, done = tmp_path_factory.mktemp("single"), set()

    def get(names, seed):
        todo = [case for case in (case_of(name, seed) for name in names) if case not in done]
        if todo:
            run("single", 1, folder, todo)
            done.update(todo)
        return {name: result(folder, case_of(name, seed), 1) for name in names}

    return get


@pytest.mark.slow
@pytest.mark.sampled(len(OBJECTIVES))
@pytest.mark.parametrize("objectives", OBJECTIVES, ids=" ".join)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_ranks_equal_one_process(strategy, objectives, alone, tmp_path):
    left, found = objectives, {}
    for seed in SEEDS:
        if not left:
            break
        run(strategy, 2, tmp_path, [case_of(name, seed) for name in left])
        for name, one in alone(left, seed).items():
            found[name, seed] = difference(one, result(tmp_path, case_of(name, seed), 2))
        left = [name for name in left if found[name, seed] > 1e-5]
    assert not left, found


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_averages_of_a_length_chosen_afterwards(strategy, tmp_path):
    found = differences(strategy, "minimax/fp32/seed={seed}/posthoc=2", tmp_path)
    assert found[-1] <= 1e-5, found
