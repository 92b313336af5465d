"""fp16: one scale a network, which all ranks change together; a step that overflows is no step."""

from functools import partial

import pytest
import torch
from conftest_objectives import make_gan
from matrix import HALF_LIMIT, STRATEGIES, Alone, difference, halves, result, run
from test_refusals import fit
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from trainer.errors import UserError
from trainer.strategies.hold import local
from trainer.strategies.scale import LEAST, MOST, PATIENCE, START, Scale, check_leaves_out
from trainer.strategies.single import Single

CPU = torch.device("cpu")
INF, NAN = float("inf"), float("nan")


def seen(scale, *norms):
    for norm in norms:
        scale.see(torch.tensor(norm))
    return scale.factor.item()


def test_it_halves_and_grows_again(monkeypatch):
    monkeypatch.setattr("trainer.strategies.scale.PATIENCE", 3)
    scale = Scale(CPU)
    assert seen(scale, 1.0, 1.0) == START
    assert seen(scale, INF) == START / 2, "two steps of patience are lost"
    assert seen(scale, 1.0, 1.0) == START / 2
    assert seen(scale, 1.0) == START
    assert seen(scale, NAN, NAN) == START / 4
    assert not scale.age


def test_what_the_least_scale_does_not_mend_is_held():
    scale = Scale(CPU)
    halvings = int(torch.tensor(START / LEAST).log2())
    assert seen(scale, *[NAN] * halvings) == LEAST
    assert not scale.age
    assert seen(scale, NAN) == LEAST
    seen(scale, 1.0)
    assert scale.age == 2
    assert scale.left_out


def test_it_stays_a_number():
    scale = Scale(CPU)
    scale.factor.fill_(MOST)
    scale.calm.fill_(PATIENCE - 1)
    assert seen(scale, 0.0) == MOST


def test_the_norm_of_a_step_that_was_left_out_is_that_of_the_one_before():
    scale = Scale(CPU)
    logs = [scale.see(torch.tensor(norm)) for norm in (2.0, INF, 3.0)]
    assert [each["gradient_norm"].item() for each in logs] == [2.0, 2.0, 3.0]
    assert [each["loss_scale"].item() for each in logs] == [START, START / 2, START / 2]


def test_gradients_are_those_of_the_loss():
    weight, scale = torch.nn.Parameter(torch.randn(50)), Scale(CPU)
    loss = (weight.square() * torch.randn(50)).sum()
    (plain,) = torch.autograd.grad(loss, weight, retain_graph=True)
    scale.scaled(loss).backward()
    assert weight.grad.equal(plain * START)
    scale.unscale([weight.grad])
    assert weight.grad.equal(plain)


@pytest.mark.parametrize("kind", ["loop", "fused", "fused and split"])
def test_a_step_that_is_left_out_leaves_everything_as_it_is(kind):
    """Of a fused optimiser by what a GPU runs, of split weights too: not even Adam's count of steps goes on."""
    weight = torch.randn(4, 3)
    try:
        if kind == "fused and split":
            torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
            mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("replicas", "shards"))["shards"]
            weight = distribute_tensor(weight, mesh, [Shard(0)])
        weight = torch.nn.Parameter(weight)
        optimizer, scale = torch.optim.Adam([weight], lr=0.1, fused=kind != "loop"), Scale(CPU)
        kept = []
        for value in (INF, 1.0, NAN, 1.0):
            weight.grad = weight.detach() * value
            before = [local(each).clone() for each in (weight.detach(), *optimizer.state[weight].values())]
            scale.unscale([weight.grad])
            scale.see(local(weight.grad).norm())
            scale.step(optimizer, [weight.grad])
            after = [local(each) for each in (weight.detach(), *optimizer.state[weight].values())]
            kept.append(all(one.equal(other) for one, other in zip(before, after, strict=False)))
            assert all(each.isfinite().all() for each in after)
        assert kept == [True, False, True, False]
        assert optimizer.state[weight]["step"] == 2
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@pytest.mark.parametrize("make", [torch.optim.RMSprop, torch.optim.Adam, partial(torch.optim.SGD, fused=True)])
def test_what_cannot_leave_a_step_out_is_refused(make):
    with pytest.raises(UserError, match=r"cannot leave a step out on a GPU: use torch.optim.Adam or AdamW with fused"):
        check_leaves_out(make([torch.nn.Parameter(torch.ones(2))], lr=0.1))
    check_leaves_out(torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], fused=True))


def test_a_gradient_within_a_loss_is_not_scaled():
    """The exact penalty of the whole run in fp16 is that of float32 in the first step, where weights are the same."""
    seen = {}
    for precision in ("32-true", "16-mixed"):
        gan = make_gan(r1=1.0, seed=2)
        loss = gan.phases["discriminator"]

        def phase(batch, loss=loss, precision=precision):
            value, logs = loss(batch)
            seen[precision] = logs["discriminator/r1"].detach()
            return value, logs

        gan.phases["discriminator"] = phase
        fit(Single("cpu"), gan, precision)
        assert isinstance(gan.trainer.strategy.holds[0], Scale) == (precision == "16-mixed")
    assert seen["16-mixed"].equal(seen["32-true"])


def test_a_cpu_is_told_that_it_has_bfloat16(command, tmp_path):
    done = command("experiment=cgan_shapes", "trainer.precision=16-mixed", "gpus_per_node=0", f"run_dir={tmp_path}/run")
    assert done.code == 2
    assert "trainer.precision=16-mixed: of GPUs; a CPU has 32-true and bf16-mixed" in done.err
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return Alone(tmp_path_factory.mktemp("single"))


@pytest.mark.slow
@pytest.mark.sampled(5)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_ranks_are_those_of_ddp_and_near_float32(strategy, alone, tmp_path):
    found = halves(strategy, tmp_path, alone)
    assert max(of_ddp for of_ddp, _ in found.values()) <= 1e-6, found
    assert max(of_float32 for _, of_float32 in found.values()) <= HALF_LIMIT, found
    assert min(of_float32 for _, of_float32 in found.values()) > 1e-5, f"nothing was rounded: {found}"


@pytest.mark.slow
@pytest.mark.sampled(5)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_overflow_of_one_rank_is_left_out_by_all(strategy, tmp_path):
    """The loss of the second rank is 1e25 times as large in step 10. The run goes on, and so does one from there."""
    case, further, whole = "hinge/fp16/break=1e25/save=half.ckpt", "hinge/fp16/from=half.ckpt", "hinge/fp16"
    run(strategy, 2, tmp_path, [case, further, whole])
    ranks = [result(tmp_path, case, 2, rank) for rank in (0, 1)]
    went, other = result(tmp_path, further, 2), result(tmp_path, whole, 2)
    of_discriminator, of_generator = other["scales"]
    assert all(each["scales"] == [of_discriminator, of_generator / 2] for each in ranks)
    assert all(each["ages"] == [0.0, 0.0] for each in ranks)
    taken, taken_whole = ([float(each["state"][0]["step"]) for each in run["optimizer"]] for run in (ranks[0], other))
    assert taken == [taken_whole[0], taken_whole[1] - 1]
    assert all(weight.isfinite().all() for weight in ranks[0]["weights"].values())
    assert difference(ranks[0], went) == 0
    assert went["scales"] == ranks[0]["scales"], "a checkpoint has them"
    assert torch.equal(ranks[0]["optimizer"][1]["scale"]["calm"], went["optimizer"][1]["scale"]["calm"])
