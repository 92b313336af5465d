"""What was measured as tables, for the terminal and for README.md alike, and as a plot."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from trainer.benchmark import plot, predict
from trainer.errors import UserError
from trainer.process.distribution import install
from trainer.process.progress import say
from trainer.report.table import markdown
from trainer.strategies.traffic import sent

MIB = 2**20


def plural(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}"


def ms(seconds: float) -> str:
    return f"{1000 * seconds:,.2f}"


def speeds(result: dict[str, Any]) -> str:
    """Step and phases, ours and bare."""
    ours, bare = result["speed"], result["speed"]["bare"]
    named = [("step", ours["step_s"], bare and bare["step_s"])]
    named += [(name, s, bare and bare["phases_s"].get(name)) for name, s in ours["phases_s"].items()]
    rows = [[name, ms(s), ms(b) if b else "", f"{s / b:.3f}" if b else ""] for name, s, b in named]
    images = [f"{each['images_per_second']:,.1f}" if each else "" for each in (ours, bare)]
    if bare:
        rows[0][3] = f"{ours['ratio']:.3f}"
    rows = [["images/s", *images, ""], *([f"{name} ms", *rest] for name, *rest in rows)]
    text = markdown(["", "ours", "bare PyTorch", "ratio"], rows)
    note = f"\n\nNo bare loop: {result['no_bare_loop']}." if result["no_bare_loop"] else ""
    return f"{text}\n\nData wait {ours['data_wait']:.2%} of a step.{note}"


def work(result: dict[str, Any]) -> str:
    """FLOPs of an image and utilisation."""
    probe, speed, peak = result["probe"], result["speed"], result["peak"]["flops"]
    size = speed["batch_size"] / speed["ranks"]
    rows = []
    for name, phase in [*probe["phases"].items(), ("step", None)]:
        flops = phase["flops"] if phase else sum(p["flops"] for p in probe["phases"].values())
        seconds = speed["phases_s"][name] if phase else speed["step_s"]
        mfu = f"{flops / seconds / peak:.1%}" if peak else "peak unknown"
        rows.append([name, f"{flops / size / 1e9:,.3f}", f"{flops / seconds / 1e9:,.1f}", mfu])
    known = f"{peak / 1e9:,.1f} GFLOP/s" if peak else "unknown"
    text = markdown(["", "GFLOP an image", "GFLOP/s a rank", "MFU"], rows)
    return f"{text}\n\nPeak of a rank: {known} ({result['peak']['source']})."


def traffic(result: dict[str, Any], probe: dict[str, Any]) -> str:
    """Collectives of a step, by phase and kind."""
    ranks, rows = len(probe["ranks"]), []
    for name, counted in [*probe["phases"].items(), ("between phases", probe["between_phases"])]:
        for kind, calls in counted["calls"].items():
            count = counted["bytes"].get(kind, 0)
            wire = sent(kind, count, ranks)
            rows.append([name, kind, f"{calls:,.4g}", f"{count / MIB:,.3f}", f"{wire / MIB:,.3f}"])
    if not rows:
        return "None."
    text = markdown(["phase", "collective", "calls", "MiB", "MiB sent on a ring"], rows)
    everyone = ", ".join(f"{sum(rank['bytes'].values()) / MIB:,.3f}" for rank in probe["ranks"])
    return f"{text}\n\nIn a step. The phases of each rank: {everyone} MiB."


def memory(probes: list[dict[str, Any]]) -> str:
    """What every rank holds."""
    kinds = list(probes[0]["ranks"][0]["memory"])
    rows = []
    for probe in probes:
        for number, rank in enumerate(probe["ranks"]):
            held = [f"{rank['memory'][kind] / MIB:,.3f}" for kind in kinds]
            rows.append([f"{number} of {len(probe['ranks'])}", *held, f"{rank['peak_gib']:,.2f}"])
    saved = {name: phase["saved"] / MIB for name, phase in probes[0]["phases"].items()}
    each = ", ".join(f"{name} {mib:,.2f}" for name, mib in saved.items())
    states = sum(probes[0]["ranks"][0]["memory"].values()) / MIB
    table = markdown(["rank", *(f"{kind} MiB" for kind in kinds), "peak GiB"], rows)
    return (
        f"{table}\n\nKept for gradients, MiB an image: {each}. So a device holds about {states:,.0f} MiB and "
        f"{max(saved.values()):,.2f} MiB for each of its images at a time, beside what its kernels and allocator take."
    )


def scaling_text(result: dict[str, Any]) -> str:
    phases = list(result["speed"]["phases_s"])
    head = ["scaling", "ranks", "batch", "images/s", "step ms", *(f"{name} ms" for name in phases), "efficiency"]
    rows = []
    for r in result["scaling"]:
        times = [ms(seconds) for seconds in (r["step_s"], *(r["phases_s"][name] for name in phases))]
        counts = [r["mode"], str(r["ranks"]), str(r["batch_size"]), f"{r['images_per_second']:,.1f}"]
        rows.append([*counts, *times, f"{r['efficiency']:.1%}"])
    return markdown(head, rows)


def prediction_text(rows: list[dict[str, Any]]) -> str:
    """What the model says of the steps that were measured."""
    head = ["scaling", "ranks", "processes apart ms", "communication ms", "sum ms", "overlapped ms", "measured ms"]
    times = ("compute_s", "communication_s", "sum_s", "overlapped_s", "measured_s")
    cells = [
        [r["mode"], str(r["ranks"]), *(ms(r[key]) for key in times)]
        + [f"{r[key] / r['measured_s']:.3f}" for key in ("sum_s", "overlapped_s")]
        for r in rows
    ]
    fit = "; ".join(
        f"{r['ranks']} ranks {r['mode']}: {r['bandwidth_gib_s']:.2f} GiB/s, {r['latency_us']:.0f} us" for r in rows
    )
    text = markdown([*head, "sum / measured", "overlapped / measured"], cells)
    return f"{text}\n\nLinks that fit the all_reduces timed there: {fit}."


def sections(result: dict[str, Any]) -> dict[str, str]:
    """Title -> Markdown."""
    probes = [row["probe"] for row in result.get("scaling", []) if row["mode"] == "weak"] or [result["probe"]]
    parts = {"Speed": speeds(result)}
    if result["probe"]:
        parts["Work"] = work(result)
        parts[f"Communication on {plural(len(probes[-1]['ranks']), 'rank')}"] = traffic(result, probes[-1])
        parts["Memory"] = memory(probes)
    if "scaling" in result:
        parts["Scaling"] = scaling_text(result)
    if result.get("check"):
        parts["Model against measurement"] = prediction_text(result["check"])
    return parts


def write(cfg: DictConfig, result: dict[str, Any]) -> None:
    """Prints the tables; writes benchmark.json, README.md and, of several numbers of ranks, scaling.png."""
    if "scaling" in result:
        result["check"] = predict.check(result)
    where = result["environment"]
    speed = result["speed"]
    most = max([row["ranks"] for row in result.get("scaling", [])], default=speed["ranks"])
    ranks = plural(most, "rank") if most == speed["ranks"] else f"{speed['ranks']} to {plural(most, 'rank')}"
    title = (
        f"{result['name']}, strategy={result['strategy']}, {ranks} on {where['device']}, "
        f"{plural(where['threads_per_rank'], 'thread')} a rank, batch {speed['batch_size']}, {result['precision']}, "
        f"medians of {plural(len(result['runs']), 'run')} of {plural(result['steps'], 'step')}"
    )
    drawn = ("scaling.png", "images/s over ranks", plot.draw) if "scaling" in result else None
    facts = "\n".join(f"- {key}: {value}" for key, value in where.items())
    leave(cfg.out, "benchmark.json", title, sections(result), result, drawn, f"\n## Environment\n\n{facts}\n")


def leave(
    out: str,
    name: str,
    title: str,
    sections: dict[str, str],
    result: dict[str, Any],
    drawn: tuple[str, str, Callable[[dict[str, Any], Path], None]] | None,
    more: str = "",
) -> None:
    """Prints the sections; writes them to README.md in `out`, the figures to `name` beside it, and a picture.

    drawn: file of the picture, what it shows, and what draws it. more: what
    README.md has behind the sections.
    """
    body = "\n\n".join(f"## {head}\n\n{text}" for head, text in sections.items())
    print(f"{title}\n\n{body}")
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={folder}: {error.strerror}; name a folder that can be made") from error
    (folder / name).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    picture = ""
    if drawn and find_spec("matplotlib") is None:
        say(f"no {drawn[0]}: it needs matplotlib; {install('plot')}")
    elif drawn:
        drawn[2](result, folder / drawn[0])
        picture = f"\n![{drawn[1]}]({drawn[0]})\n"
    command = shlex.join(["python", "-m", "trainer.benchmark", *sys.argv[1:]])
    text = f"# {title}\n\n```bash\n{command}\n```\n\n{body}\n{picture}{more}"
    (folder / "README.md").write_text(text, encoding="utf-8")
    print(f"\n{folder}/README.md")
