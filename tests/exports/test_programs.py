"""Programs draw what eager draws, alone in a process of their own and as a checkpoint of this project."""

import math
import shutil
import subprocess
import sys
from pathlib import Path
from re import findall

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from onnx import load as load_onnx
from PIL import Image

from tests.exports.conftest import IDENTITY, TOKENS, WIDTH, made, save_run
from trainer import load
from trainer.batch import Condition
from trainer.errors import UserError
from trainer.export import main
from trainer.exports import aot_inductor, onnx, torch_export
from trainer.exports.making import BOUND, BOUND_WITH_TEXT, CAPTIONS
from trainer.exports.program import FromFeatures, exported, inputs
from trainer.runs import checkpoint
from trainer.sampling import pipeline

OURS = {"trainer"}
RUN_ONNX = """
import numpy, onnxruntime
given = dict(numpy.load("given.npz"))
numpy.save("images.npy", onnxruntime.InferenceSession("model.onnx").run(None, given)[0])
print(sorted(each for each in sys.modules if each in ("torch", "trainer")))
"""
RUN_PT2 = """
import numpy, torch
given = [torch.from_numpy(each) for each in numpy.load("given.npz").values()]
numpy.save("images.npy", torch.export.load("model.pt2").module()(*given).detach().numpy())
"""
SLOW_FAMILIES = ("stylegan2", "attngan")
COMPILED = 'torch._inductor.aoti_load_package("model.aot.pt2")'
RUN_AOT = RUN_PT2.replace('torch.export.load("model.pt2").module()', COMPILED)


def given(run, folder, count=5):
    """Writes inputs of the folder's programs to given.npz; the images that the run draws of them in eager."""
    pipe = load(run)
    captions = [CAPTIONS[i % len(CAPTIONS)] for i in range(count)]
    latent, condition = pipe.latents(range(count)), pipe.condition(captions)
    arrays = inputs(latent, condition)
    np.savez(folder / "given.npz", **{name: each.numpy() for name, each in arrays.items()})
    with torch.no_grad():
        return pipe.objective.sample(latent, condition).numpy()


@pytest.mark.parametrize("count", [1, 5])
def test_onnx_runs_without_torch(run, exports, without, count):
    expected = given(run, exports, count)
    assert without(OURS | {"torch"}, RUN_ONNX, exports) == "[]\n"
    assert np.abs(np.load(exports / "images.npy") - expected).max() <= BOUND
    assert np.ptp(expected) > 0.5, "images that say something"


def test_onnx_of_ids_runs_without_torch(run_of_ids, exports_of_ids, without):
    expected = given(run_of_ids, exports_of_ids)
    without(OURS | {"torch"}, RUN_ONNX, exports_of_ids)
    assert np.abs(np.load(exports_of_ids / "images.npy") - expected).max() <= BOUND


def test_torch_export_runs_without_this_project(run, exports, without):
    expected = given(run, exports)
    without(OURS, RUN_PT2, exports)
    assert np.abs(np.load(exports / "images.npy") - expected).max() <= BOUND


@pytest.mark.parametrize("family", ["progressive", *(pytest.param(f, marks=pytest.mark.slow) for f in SLOW_FAMILIES)])
def test_programs_of_other_families(family, pretrained, tmp_path):
    """Noise maps are part of the latent, so that a seed is one image here too."""
    source = save_run(tmp_path / "run", family, pretrained("minilm"), IDENTITY)
    folder = made(source, tmp_path / "out", "formats=[onnx,torch_export]")
    expected = load(source)(list(CAPTIONS), seeds=range(4)).pixels
    assert expected.float().std() > 20, "images that say something"
    for name in ("model.onnx", "model.pt2"):
        pipe = load(folder / name)
        assert (pipe(list(CAPTIONS), seeds=range(4)).pixels.int() - expected.int()).abs().max() <= 1
        with pytest.raises(UserError, match=r"truncation=0.7: Generator has no styles to be truncated"):
            pipe("a cat", truncation=0.7)


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
@pytest.mark.parametrize("of", ["features", "ids"])
def test_a_program_is_a_checkpoint(run, run_of_ids, exports, exports_of_ids, of, name):
    source, folder = (run, exports) if of == "features" else (run_of_ids, exports_of_ids)
    expected = load(source)(list(CAPTIONS), seeds=range(4)).pixels
    pipe = load(folder / name)
    drawn = pipe(list(CAPTIONS), seeds=range(4)).pixels
    assert (drawn.int() - expected.int()).abs().max() <= 1
    assert not drawn.is_floating_point() and pipe.step == 30 and pipe.objective.images_seen == 1500
    assert not list(pipe.objective.parameters()), "it draws by the file alone"


@pytest.mark.slow
def test_programs_of_transformers(pretrained, tmp_path):
    run = save_run(tmp_path / "run", "transformer", pretrained("minilm"), IDENTITY, width=16, depth=2, num_heads=2)
    out = made(run, tmp_path / "out", "formats=[onnx,torch_export]")
    expected = load(run)(list(CAPTIONS), seeds=range(4)).pixels
    for name in ("model.onnx", "model.pt2"):
        drawn = load(out / name)(list(CAPTIONS), seeds=range(4)).pixels
        assert (drawn.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_one_image_is_one_row_of_a_program(exports_of_ids, name):
    """Also of one whose captions have one length, that of the text encoder that trained with its generator."""
    pipe, seen = load(exports_of_ids / name), []
    expected = pipe.draw(pipe.latents(range(16)), pipe.condition(["a red apple"] * 16)).pixels
    runtime = pipe.objective.generator
    draw = runtime.run
    runtime.run = lambda given: seen.append(given["input_ids"].shape) or draw(given)
    for _ in range(2):  # the first time is drawn in full
        image = pipe(["a red apple"], seeds=[0]).pixels
        assert (image.int() - expected[:1].int()).abs().max() <= 1
    assert seen[-1] == (1, TOKENS)


@pytest.fixture
def sessions(monkeypatch):
    """onnxruntime as one that holds every provider; with which, and which of their options, each session was opened."""
    onnxruntime = pytest.importorskip("onnxruntime")
    opened, real = [], onnxruntime.InferenceSession

    def session(path, options, given):
        opened.append(dict(given))
        return real(path, options, ["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*onnx.PROVIDERS.values()])
    return opened


@pytest.mark.parametrize(
    ("device", "wanted"),
    [
        (None, ["CUDA", "CPU"]),
        ("cpu", ["CPU"]),
        ("openvino", ["OpenVINO", "CPU"]),
        ("tensorrt", ["Tensorrt", "CUDA", "CPU"]),
    ],
)
def test_a_program_draws_by_the_provider_that_is_asked_for(
    exports_of_ids, sessions, device, wanted, monkeypatch, capsys
):
    monkeypatch.setattr(pipeline, "usable_device", lambda *_: torch.device("cpu"))
    pipe = load(exports_of_ids / "model.onnx", device)
    assert [*sessions[-1]] == [f"{each}ExecutionProvider" for each in wanted]
    assert pipe("a red apple", seeds=[0]).pixels.float().std() > 0
    options = sessions[-1][f"{wanted[0]}ExecutionProvider"]
    if device == "openvino":
        assert options["precision"] == "FP32" and options["num_of_threads"] == str(torch.get_num_threads())
    if device == "tensorrt":  # engines are built once
        assert options["trt_engine_cache_enable"] == "1" and Path(options["trt_engine_cache_path"]).is_dir()
    silent = device not in ("openvino", "tensorrt")  # that session has but its CPU
    assert (f"{device} could not be started" in capsys.readouterr().err) != silent


@pytest.mark.parametrize(
    ("name", "device", "says"),
    [
        ("model.onnx", "openvino", "openvino: onnxruntime on this machine has cpu: python -m pip install onnxruntime"),
        ("model.onnx", "tensorrt", "device=tensorrt: this machine has no usable GPU; leave device out or say cpu"),
        ("model.pt2", "openvino", "device=openvino: expected cpu, cuda or cuda:NUMBER, or of a model.onnx tensorrt or"),
        ("model.onnx", "npu", "device=npu: expected cpu, cuda or cuda:NUMBER, or of a model.onnx tensorrt or openvino"),
    ],
)
def test_a_provider_that_is_not_there_is_one_line(exports_of_ids, name, device, says, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=says):
        load(exports_of_ids / name, device)


def test_openvino_draws_the_same(exports_of_ids):
    """Where the package is onnxruntime-openvino."""
    if "openvino" not in onnx.providers():
        pytest.skip("needs onnxruntime-openvino in the place of onnxruntime")
    drawn = [load(exports_of_ids / "model.onnx", device)(list(CAPTIONS)).pixels.int() for device in ("cpu", "openvino")]
    assert (drawn[0] - drawn[1]).abs().max() <= 1


def test_the_axes_of_a_program_have_names(exports, exports_of_ids):
    from onnx import load as read

    def axes(path):
        graph = read(path).graph
        return {
            each.name: [axis.dim_param or axis.dim_value for axis in each.type.tensor_type.shape.dim]
            for each in [*graph.input, *graph.output]
        }

    images = {"latent": ["N", 8], "images": ["N", 3, 16, 24]}
    features = {"tokens": ["N", "L", WIDTH], "mask": ["N", "L"], "pooled": ["N", WIDTH]}
    assert axes(exports / "model.onnx") == images | features
    ids = {"input_ids": ["N", TOKENS], "attention_mask": ["N", TOKENS]}
    assert axes(exports_of_ids / "model.onnx") == images | ids


def test_the_axis_of_tokens_is_open(exports):
    condition = load(exports / "model.onnx").condition(["a red apple"])
    trimmed = Condition(condition.tokens[:, :5], condition.mask[:, :5], condition.pooled)
    assert not condition.mask[:, 5:].any()
    for name in ("model.onnx", "model.pt2"):
        generator = checkpoint.load(exports / name).generator
        latent = torch.randn(1, 8)
        assert (generator(latent, trimmed) - generator(latent, condition)).abs().max() <= BOUND


def test_a_folder_of_programs_alone_runs_none_by_itself(exports):
    with pytest.raises(UserError, match=r"a program is code, and runs where you name its file"):
        load(exports)


def test_open_dimensions_have_their_names(exports):
    graph = load_onnx(exports / "model.onnx").graph
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output, *graph.value_info)
    }
    assert shapes["latent"] == ["N", 8]
    assert shapes["tokens"] == ["N", "L", WIDTH]
    assert shapes["images"] == ["N", 3, 16, 24]
    open_sizes = [size for shape in shapes.values() for size in shape if isinstance(size, str)]
    assert {word for size in open_sizes for word in findall(r"[a-zA-Z]\w*", size)} == {"N", "L"}


INFER = """
import infer
for seed in ("0", "7", "-3"):
    infer.main("two people who walk along the street", seed, f"{seed}.png")
print(sorted(each for each in sys.modules if each in ("torch", "trainer", "PIL", "transformers")))
"""


def test_with_the_text_encoder_inside(run, tmp_path, without):
    out = made(run, tmp_path / "out", "formats=onnx")  # by itself
    assert without(OURS | {"torch", "transformers", "PIL"}, INFER, out).endswith("[]\n")
    for seed in (0, 7, -3):
        with Image.open(out / f"{seed}.png") as image:
            mine, theirs = np.asarray(image), load(run)("two people who walk along the street", seed).images[0]
        assert np.abs(mine.astype(int) - np.asarray(theirs)).max() <= 1
        assert np.ptp(mine) > 100
    for given_so in ([], [" "], ["a cat", "seven"], ["a cat", "0", "a.png", "b.png"]):
        told = subprocess.run([sys.executable, out / "infer.py", *given_so], capture_output=True, text=True)
        assert told.returncode == 2 and told.stderr.startswith("A picture of a prompt")
    assert "python infer.py 'a red apple' 0 image.png" in (out / "README.md").read_text()
    expected = load(run)(list(CAPTIONS), seeds=range(4)).pixels
    pipe = load(out / "model.onnx")
    assert (pipe(list(CAPTIONS), seeds=range(4)).pixels.int() - expected.int()).abs().max() <= 1
    shutil.copytree(out, tmp_path / "again")
    made(run, tmp_path / "again", "formats=onnx", "include_text=false")
    assert not (tmp_path / "again" / "infer.py").exists(), "a program of features cannot be fed by it"
    features = pipe.text.prepare(list(CAPTIONS))
    assert torch.equal(features[np.array([2, 0])].float().tokens, pipe.condition([CAPTIONS[2], CAPTIONS[0]]).tokens)
    eager = given(run, out)
    latent = np.load(out / "given.npz")["latent"]
    np.save(out / "latent.npy", latent)
    code = f"""
import numpy, onnxruntime, tokenizers
captions = {list(CAPTIONS)!r}
found = tokenizers.Tokenizer.from_file("tokenizer.json").encode_batch(captions)
ids, mask = (numpy.array([getattr(each, name) for each in found]) for name in ("ids", "attention_mask"))
given = {{"latent": numpy.load("latent.npy"), "input_ids": ids, "attention_mask": mask}}
numpy.save("images.npy", onnxruntime.InferenceSession("model.onnx").run(None, given)[0])
"""
    without(OURS | {"torch", "transformers"}, code, out)
    assert np.abs(np.load(out / "images.npy") - eager).max() <= BOUND_WITH_TEXT


def test_a_program_that_differs_is_removed(run, tmp_path, command, monkeypatch):
    honest = torch_export.write
    monkeypatch.setattr(torch_export, "write", lambda exported, path: honest(spoilt(exported), path))
    result = command(f"checkpoint={run}", f"out={tmp_path}", "formats=[safetensors,torch_export]", main=main)
    told, failed = (line for line in result.err.splitlines() if "may take" not in line)
    assert result.code == 2 and "text.encoder.path" in told, "a folder of this disk, which others lack"
    assert "model.pt2: differs from eager by" in failed and "more than 1.0e-04" in failed
    assert not (tmp_path / "model.pt2").exists() and (tmp_path / "model.safetensors").exists()
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "model.pt2")


def spoilt(exported):
    """One bias off by a thousandth."""
    exported.state_dict["generator.image.bias"].add_(1e-3)
    return exported


def test_the_bound_is_that_of_the_numbers(run, tmp_path):
    from trainer.exports.generator import TrainedGenerator
    from trainer.exports.making import Programs, largest, root_mean_square

    drawing = TrainedGenerator.of(run)
    programs = Programs(drawing.generator, drawing.config, tmp_path, with_text=False)
    assert programs.bound == BOUND
    drawing.generator.register_buffer("weight_q", torch.zeros(3, dtype=torch.int8))
    assert programs.bound == 2 / 255
    level, one_value = torch.full((2, 3, 16, 24), 2 / 255), torch.zeros(2, 3, 16, 24)
    one_value[0, 0, 0, 0] = 8 / 255
    assert root_mean_square(level, one_value * 0) == pytest.approx(2 / 255)
    assert root_mean_square(one_value, one_value * 0) < 1 / 255 < largest(one_value, one_value * 0)
    assert math.isnan(root_mean_square(level, level[:1])) and math.isnan(root_mean_square(level * math.nan, level))


def test_what_cannot_be_made_is_one_line(run, tmp_path, command, monkeypatch):
    def fail(exported, path):
        path.write_bytes(b"half of it")
        raise RuntimeError("no compiler\nand a long story")

    monkeypatch.setattr(aot_inductor, "write", fail)
    result = command(f"checkpoint={run}", f"out={tmp_path}", "formats=aot_inductor", main=main)
    assert result.code == 2
    assert result.err.splitlines()[-1] == "model.aot.pt2: could not be made: RuntimeError: no compiler"
    assert "long story" not in result.err
    assert not (tmp_path / "model.aot.pt2").exists()


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2", "model.aot.pt2"])
def test_a_wrong_file_is_one_line(exports, tmp_path, name):
    shutil.copytree(exports, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_bytes(b"no program")
    module = {"model.onnx": onnx, "model.pt2": torch_export, "model.aot.pt2": aot_inductor}[name]
    with pytest.raises(UserError, match=r"is no .*(ONNX|torch\.export|AOTInductor)"):
        module.Generator(str(tmp_path / name), 8)
    if name == "model.aot.pt2":
        with pytest.raises(UserError, match="does not know it; export it again"):
            load(tmp_path / name)


def test_without_onnxruntime(exports, run, tmp_path, command, monkeypatch):
    monkeypatch.setattr(onnx.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"onnxruntime is not installed, .* pip install -e '\.\[export\]'"):
        load(exports / "model.onnx")
    result = command(f"checkpoint={run}", f"out={tmp_path / 'out'}", "formats=onnx", main=main)
    assert result.code == 2 and "pip install" in result.err
    assert not (tmp_path / "out").exists(), "told before any work"


def test_a_package_for_another_machine(tmp_path, monkeypatch):
    file = tmp_path / "model.aot.pt2"
    with aot_inductor.zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/version", "1")
    about = {"AOTI_DEVICE_KEY": "cpu", "AOTI_MACHINE": aot_inductor.platform.machine(), "AOTI_CPU_ISA": "AVX512 AMX_9"}
    loader = type("Loader", (), {"load_metadata_from_package": staticmethod(lambda path, name: about)})
    monkeypatch.setattr(aot_inductor, "PackageLoader", loader)
    monkeypatch.setattr(aot_inductor, "instructions", lambda: {"avx512"})
    with pytest.raises(UserError, match=r"made for a processor with .* amx_9, which this one is not; export it again"):
        aot_inductor.Generator(str(file), 8)
    about |= {"AOTI_DEVICE_KEY": "cuda", "AOTI_COMPUTE_CAPABILITY": "9.9"}
    with pytest.raises(UserError, match=r"made for a GPU of compute capability 9\.9, here: "):
        aot_inductor.Generator(str(file), 8)


@pytest.mark.slow
@pytest.mark.parametrize("of", ["features", "ids"])
def test_aot_inductor(run, run_of_ids, tmp_path, without, of):
    source = run if of == "features" else run_of_ids
    out = made(source, tmp_path / "out", "formats=aot_inductor")
    expected = given(source, out)
    without(OURS, RUN_AOT, out)
    assert np.abs(np.load(out / "images.npy") - expected).max() <= BOUND
    drawn = load(out / "model.aot.pt2")(list(CAPTIONS), seeds=range(4)).pixels
    assert (drawn.int() - load(source)(list(CAPTIONS), seeds=range(4)).pixels.int()).abs().max() <= 1


def test_wrong_formats(run, command, tmp_path):
    result = command(f"checkpoint={run}", f"out={tmp_path}", "formats=onxx", main=main)
    assert (result.code, "nearest: onnx" in result.err) == (2, True)
    result = command(f"checkpoint={run}", f"out={tmp_path}", "formats=[]", main=main)
    assert (result.code, "expected some of safetensors" in result.err) == (2, True)


@pytest.mark.parametrize("kind", ["minilm", "bert", "roberta", "albert", "gpt2", "smollm2", "t5", "clip"])
def test_the_encoder_inside_reads_as_the_one_outside(pretrained, tmp_path, kind):
    from trainer.exports.text import included

    encoder = instantiate(pretrained(kind))
    captions = ["a red apple", "the big blue car on " * 6, "a", ""]
    expected = [encoder([caption]) for caption in captions]
    module, node = included(encoder, tmp_path)
    tokens = instantiate(node | {"path": str(tmp_path / "tokenizer.json")})(captions)
    found = module(tokens)
    for i, alone in enumerate(expected):
        assert torch.equal(found.mask[i], alone.mask[0])
        torch.testing.assert_close(found.tokens[i], alone.tokens[0], rtol=2e-3, atol=1e-5)
        torch.testing.assert_close(found.pooled[i], alone.pooled[0], rtol=2e-3, atol=1e-5)
        assert torch.equal(found.pooled[i], found.pooled[i].half().float())


def test_onnx_stores_what_is_half_as_half_and_no_paths(run, tmp_path):
    """Weights that are float16 numbers take two bytes each, and where a node was written is not told."""
    pipe = load(run)
    generator = pipe.objective.generator.requires_grad_(False)
    latent, condition = pipe.latents(range(3)), pipe.condition(list(CAPTIONS[:3]))
    sizes, drawn = [], []
    for _ in range(2):
        path = tmp_path / "model.onnx"
        onnx.write(exported(FromFeatures(generator), inputs(latent, condition), open_tokens=True), path)
        sizes.append(path.stat().st_size)
        drawn.append(onnx.Generator(str(path), generator.latent_channels)(latent, condition))
        torch.testing.assert_close(drawn[-1], generator(latent, condition), atol=BOUND, rtol=0)
        assert str(Path(onnx.__file__).parents[1]).encode() not in path.read_bytes()
        for parameter in generator.parameters():
            parameter.data = parameter.data.half().float()
    large = sum(p.numel() for p in generator.parameters() if p.numel() >= onnx.LARGE)
    assert large > 5000
    assert sizes[0] - sizes[1] > 1.8 * large - 2000
    assert not torch.equal(*drawn)
