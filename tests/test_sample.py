"""`python -m trainer.sample` as typed."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from trainer import load
from trainer.errors import UserError
from trainer.sample import main
from trainer.sampling import bulk, runtime
from trainer.sampling.prompts import parse_prompts, parse_seeds, slug
from trainer.sampling.runtime import is_compiled


@pytest.fixture
def draw(command, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: command(f"checkpoint={trained}", *arguments, main=main)


def test_files_and_grid_with_their_origin(draw, trained):
    result = draw("prompts=[a red apple, a blue car]", "seeds=2-4")
    assert result.code == 0, result.err
    folder = trained / "samples" / "kimg000001.500"
    names = [f"a-{what}_seed000{seed}.png" for what in ("red-apple", "blue-car") for seed in (2, 3, 4)]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "grid.png"])
    assert [line for line in result.out.splitlines() if line.endswith(".png")] == [
        str(folder / name) for name in [*names, "grid.png"]
    ]
    assert result.out.endswith("\n6 images on cpu\n")  # of so few a rate would be that of the start
    image = Image.open(folder / "a-blue-car_seed0003.png")
    assert image.info == {
        "Software": "trainer",
        "experiment": "small",
        "checkpoint": f"{trained.name}/kimg000001.500.ckpt",
        "kimg": "1.500",
        "step": "30",
        "prompt": "a blue car",
        "seed": "3",
    }
    assert np.array_equal(np.asarray(image), np.asarray(load(trained)("a blue car", 3).images[0]))
    info = Image.open(folder / "grid.png").info
    assert json.loads(info["prompts"]) == ["a red apple", "a blue car"]
    assert json.loads(info["seeds"]) == [2, 3, 4]


def test_drawn_again_the_files_stay_and_another_grid_gets_another_name(draw, trained):
    for _ in range(2):
        assert draw("prompts=a", "seeds=0").code == 0
    assert draw("prompts=b", "seeds=0,1").code == 0
    names = sorted(path.name for path in (trained / "samples" / "kimg000001.500").iterdir())
    assert names == ["a_seed0000.png", "b_seed0000.png", "b_seed0001.png", "grid-2.png", "grid.png"]


def test_files_of_another_checkpoint_are_not_overwritten(draw, trained, tmp_path):
    older = trained / "checkpoints" / "kimg000000.500.ckpt"
    assert draw("prompts=a", "out=here").code == 0
    before = (tmp_path / "here" / "a_seed0000.png").read_bytes()
    result = draw(f"checkpoint={older}", "prompts=a", "out=here")
    assert result.code == 2
    assert "choose another out=FOLDER" in result.err
    assert (tmp_path / "here" / "a_seed0000.png").read_bytes() == before


def test_prompts_as_people_type_them(draw, tmp_path):
    typed = {
        "prompts=[café, it's red, a (b): {c}]": ["café", "it's red", "a (b): {c}"],
        f"prompts={'𠀀' * 72}": ["𠀀" * 72],
    }
    for argument, prompts in typed.items():
        result = draw(argument, "out=here")
        assert result.code == 0, result.err
        assert json.loads(Image.open(result.out.splitlines()[-2]).info["prompts"]) == prompts
    assert draw("--prompt", "a red apple", "--seeds=0-1", "--out", "here").code == 0
    assert {file.name for file in (tmp_path / "here").glob("a-red*")} == {f"a-red-apple_seed000{i}.png" for i in (0, 1)}


def test_the_run_needs_no_key(command, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = command("sample", str(trained), "prompts=a", "device=cpu", f"out={tmp_path / 'Bücher (2)'}")
    assert result.code == 0, result.err
    assert (tmp_path / "Bücher (2)" / "a_seed0000.png").is_file()


def test_many_files_are_not_named_one_by_one(draw):
    result = draw("prompts=a", "seeds=0-39", "out=here")
    assert result.code == 0, result.err
    assert result.out.startswith("here/grid.png\n40 images in here, ")
    assert result.out.endswith(" images/s on cpu\n")


def test_it_says_where_the_best_checkpoint_is(draw, trained):
    best = trained / "checkpoints" / "best.ckpt"
    best.symlink_to("kimg000000.500.ckpt")
    assert f"the newest checkpoint, {trained / 'checkpoints/kimg000001.500.ckpt'}; the best" in draw("prompts=a").err
    assert draw("prompts=a", f"checkpoint={best}", "out=best").err == ""
    best.unlink()
    best.symlink_to("kimg000001.500.ckpt")
    assert draw("prompts=a").err == ""


def test_prompts_file(draw, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red apple\n\n ein grüner Apfel 🍏 \n", encoding="utf-8")
    result = draw("prompts_file=prompts.txt", "out=here", "batch_size=1")
    assert result.code == 0, result.err
    infos = [Image.open(file).info for file in (tmp_path / "here").glob("*_seed0000.png")]
    assert {info["prompt"] for info in infos} == {"a red apple", "ein grüner Apfel 🍏"}


def test_lines_of_stdin_become_images_one_by_one(draw, tmp_path, trained, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("a red apple\n\na blue car\n"))
    result = draw("prompts_file=-", "out=here", "seeds=0-1")
    assert result.code == 0, result.err
    names = [f"here/a-{what}_seed000{seed}.png" for what in ("red-apple", "blue-car") for seed in (0, 1)]
    assert result.out.splitlines() == names
    alone = np.asarray(Image.open(tmp_path / names[3])).astype(int)
    assert abs(alone - np.asarray(load(trained)("a blue car", 1).images[0])).max() <= 1


def test_throughput_takes_the_quickest_batches_unless_the_user_says_how_many(draw, monkeypatch):
    asked = []
    monkeypatch.setattr(bulk, "fastest", lambda sampler, prompts, count: asked.append((prompts, count)) or 4)
    for more in ([], ["batch_size=2"]):
        result = draw("prompts=[a, b]", "seeds=0-2", "mode=throughput", *more)
        assert result.code == 0, result.err
    assert asked == [(["a", "b"], 6)]


def test_without_a_compiler_it_draws_all_the_same(draw, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "has_cpp_compiler", lambda: False)
    result = draw("prompts=a red apple", "out=here", "compile=true")
    assert result.code == 0, result.err
    assert "no C++ compiler found" in result.err
    drawn = np.asarray(Image.open(tmp_path / "here/a-red-apple_seed0000.png"))
    assert np.array_equal(drawn, np.asarray(load(trained)("a red apple", 0).images[0]))


@pytest.mark.slow
@pytest.mark.skipif(not runtime.has_cpp_compiler(), reason="needs a C++ compiler")
@pytest.mark.parametrize("size", [1, 16])
def test_compiled_it_draws_within_a_grey_level(trained, size):
    pipe = load(trained, "cpu", batch_size=size, compiled=True)
    assert is_compiled(pipe.objective.generator)
    prompts = ["a red apple", "a blue car", "a small green circle"]
    drawn, eager = (each(prompts, seeds=range(7)).pixels.short() for each in (pipe, load(trained, "cpu")))
    assert (drawn - eager).abs().max() <= 1
    assert (eager.amax((1, 2, 3)) - eager.amin((1, 2, 3))).min() > 20, "grey images would prove nothing"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "prompts=[]: expected texts"),
        (["prompts=[a, '']"], "expected texts and none empty"),
        (["prompts=a", "seeds=x"], "x is not a seed"),
        (["prompts=a", "seeds=7-3"], "7-3 is not a seed"),
        (["prompts=a", "seeds=[]"], "expected at least one"),
        (["prompts_file=nowhere.txt"], "prompts_file=nowhere.txt"),
        (["prompts=a", "batch_size=0"], "batch_size=0"),
        (["prompts=a", "mode=fast"], "mode=fast: expected latency, throughput or null"),
        (["prompts=a", "mode=latency", "batch_size=4"], "batch_size=4: mode=latency draws each image alone"),
        (["prompts=a", "checkpoint=outputs/nothing"], "outputs/nothing does not exist; the newest run there is"),
        (["prompts=a", "sedes=3"], "did you mean seeds"),
        (["prompts=a", "n=4"], "n: no such key; did you mean seeds (0-3 are four images of each prompt)?"),
        (["prompts=a", "seeds=0-99999999999"], "more than 10,000,000 seeds"),
        (["prompts=a", "device=gpu"], "device=gpu: this machine has no usable GPU"),
        (["prompts=a", "device=abc"], "device=abc: expected cpu, cuda or cuda:NUMBER"),
        (["prompts=a", "out=/dev/null"], "out=/dev/null: File exists"),
        (["prompts=a", "out=/dev/null/x"], "out=/dev/null/x: Not a directory"),
    ],
)
def test_bad_input_is_one_line_and_code_2(draw, arguments, message):
    result = draw(*arguments)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "seeds"),
    [(3, [3]), ("0-3", [0, 1, 2, 3]), ("0,2,5-7", [0, 2, 5, 6, 7]), ([4, "1-2", 1], [4, 1, 2]), ("-5", [-5])],
)
def test_seeds(given, seeds):
    assert parse_seeds(given) == seeds


def test_seeds_beyond_int64_are_refused():
    with pytest.raises(UserError, match="not a seed"):
        parse_seeds(2**63)


def test_prompts_are_distinct_texts():
    assert parse_prompts(["b", "a", "b", 3], None) == ["b", "a", "3"]


def test_names_can_be_read_and_differ():
    assert slug("a red apple") == "a-red-apple"
    assert slug("a red apple!").startswith("a-red-apple-")
    prompts = [
        "a red apple",
        "a red apple!",
        "a-red-apple",
        "x" * 70,
        "x" * 71,
        "🍏",
        "🍎",
        "../../etc",
        "𠀀" * 72,
        "中" * 90,
    ]
    assert len({slug(prompt) for prompt in prompts}) == len(prompts)
    assert all(len(f"{slug(prompt)}_seed{-(2**63)}.png".encode()) <= 255 for prompt in prompts)
    assert all("/" not in slug(prompt) and slug(prompt)[0] != "." for prompt in prompts)
