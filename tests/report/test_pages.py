"""What stands on the pages, and how they look in a narrow browser."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from trainer.errors import UserError
from trainer.report import __main__ as verb
from trainer.report import compare, single
from trainer.report.run import Run

CHROMIUM = (
    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
    *("--disable-background-networking", "--no-first-run"),
)
VOID = {"meta", "img", "input", "br"}


class Checked(HTMLParser):
    """Every tag is closed in its turn; nothing is fetched."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        assert tag not in ("link", "base", "iframe", "object")
        for key, value in attributes:
            assert key not in ("href", "srcset", "action", "background"), key
            assert key != "src" or value.startswith("data:image/"), value[:80]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def text(path: Path) -> str:
    """What a reader sees of a page, without its tags."""
    page = path.read_text(encoding="utf-8")
    tags = Checked(page).tags
    assert {"svg", "img", "table", "h1"} <= set(tags)
    assert "url(" not in page
    assert "@import" not in page
    body = re.sub(r"<style>.*?</style>|<script>.*?</script>", "", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)))


def test_a_report_has_all_that_the_folder_knows(make):
    run = make(end={"state": "finished"}, fid=12.345)
    path = single.write(run)
    assert path == run / "report.html"
    seen = text(path)
    for part in (
        "small finished",
        "thousand images seen 4 of 4",
        "took 1 h 2 min",
        "val/fd_effnet 305 lowest 300 at kimg 2",
        "images/s 121 median",
        "parameters 1.2M generator",
        f"python -m trainer.sample checkpoint={run}",
        "<b> ·",  # of the panel, and no tag
        "fid 12.345 ± 0.25 lower 4 kimg000004.000.ckpt backbone inception, sha256 ffffffffffff, num_images 2000",
        "seed: 0",
        "command python -m trainer +experiment=small seed=0",
        "numpy==2.4.6 torch==2.13.0",
        "zipp==3.0",
    ):
        assert part in seen, part
    assert "generator 0.025 " in seen.replace(" log", "")  # last loss, in the legend
    assert "resume=" not in seen
    assert "warning" not in path.read_text().split("</style>")[1]  # nothing to warn of
    assert path.read_text().count("data:image/jpeg") == 2


def test_warnings(make, table):
    table = table(400)
    for row in table[30:]:
        row["throughput/data_wait_percent"] = 80.0
    table[-1]["generator/loss"] = float("nan")
    run = make(
        table=table, starts=2, end={"state": "failed", "reason": "generator/loss is nan", "traceback": "line 1 <x>"}
    )
    with open(run / "README.md", "a") as file:
        file.write("| skipped | 3 corrupt images, listed in x |\n| resumed from | a.ckpt at kimg 2.0 |\n")
    (run / "metrics.json").write_text("{}")
    seen = text(single.write(run))
    for part in (
        "failed: generator/loss is nan",
        "line 1 <x>",
        "generator/loss was nan at kimg 4, 1 times in all",
        "a step waits 40% of its time for data",
        "val/fd_effnet ended at 400, worse than 300 at kimg 2",
        "started 2 times",
        "resumed from a.ckpt at kimg 2.0",
        "skipped 3 corrupt images",
        "metrics.json is damaged",
        f"python -m trainer resume={run}",
    ):
        assert part in seen, part


def test_a_run_without_a_word_of_its_end(make, table):
    assert "small finished" in text(single.write(make("whole")))
    half = make("half", table=table(1)[:20])
    (half / "samples/kimg000004.000.png").unlink()
    assert "unfinished: still running, or killed" in text(single.write(half))


def test_figures_are_compared_only_by_equal_protocols(make, protocol):
    runs = [
        make("a", fid=20.0),
        make("b", seed=1, fid=18.5),
        make("c", fid=3.0, protocol=protocol | {"num_images": 100}),
        make("d"),
    ]
    path = compare.write(runs, runs[0].parent / "all.html")
    seen = text(path)
    assert "fid 20 ± 0.25 18.5 ± 0.25 -1.5 3 ± 0.25 not comparable: fid: one has num_images=100, the other 2000" in seen
    assert '<span class="good">-1.5</span>' in path.read_text()
    assert "seed 0 1 0 0" in seen
    assert "data.seed" not in seen  # follows from the seed
    assert "run_dir" not in seen
    page = path.read_text()
    assert page.count("data:image/jpeg") == 4
    loss = next(each for each in re.findall(r"<figure class=.chart.*?</figure>", page) if "generator/loss" in each)
    assert re.findall(r'<polyline class="(s\d)"', loss) == ["s0", "s1", "s2", "s3"]


def test_equal_settings_are_said_to_be_equal(make):
    assert "configured alike" in text(compare.write([make("a"), make("b")], make("c") / "x.html"))


@pytest.mark.parametrize("arguments", [["one"], ["one", "two"], ["one", "--out", "mine.html"]])
def test_command(make, command, monkeypatch, arguments):
    monkeypatch.chdir(make().parent)
    make("two")
    result = command(*arguments, main=verb.main)
    expected = {1: "one/report.html", 2: "compare.html", 3: "mine.html"}[len(arguments)]
    assert (result.code, result.out) == (0, f"{expected}\n")
    text(Path(expected))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere"], "nowhere: expected the folder of a run"),
        (["one", "nowhere"], "nowhere: expected the folder of a run"),
        (["one", "one"], "one run is named twice"),
        (["one", "--out", "no/such/folder.html"], "no/such/folder.html: No such file or directory"),
    ],
)
def test_mistakes_are_one_line(make, command, monkeypatch, arguments, line):
    monkeypatch.chdir(make().parent)
    result = command(*arguments, main=verb.main)
    assert result.code == 2
    assert line in result.err
    assert len(result.err.splitlines()) == 1
    with pytest.raises(UserError):
        single.write(Path("nowhere"))


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
@pytest.mark.parametrize("width", [360, 390, 1200])
def test_nothing_overflows_in_a_browser_and_the_slider_shows_one_picture(make, tmp_path, width):
    """The page in a frame as narrow as a phone, which says what it measures."""
    long = "x" * 300
    runs = [
        make(name, end={"state": "failed", "reason": f"a{long}", "traceback": long}, fid=1.0) for name in ("a", "b")
    ]
    for path in (single.write(runs[0]), compare.write(runs, tmp_path / "compare.html")):
        probe = tmp_path / "probe.html"
        inside = html.escape(path.read_text(encoding="utf-8"))
        probe.write_text(
            f'<iframe id="f" style="width:{width}px;height:3000px;border:0" srcdoc="{inside}"></iframe><script>'
            "document.getElementById('f').onload = event => {"
            "  const page = event.target.contentDocument, root = page.documentElement;"
            "  for (const each of page.querySelectorAll('details')) each.open = true;"
            "  const all = [...page.querySelectorAll('.evolution figure')];"
            "  const shots = () => all.filter(each => each.offsetHeight > 0);"
            "  const shown = shots();"
            "  const slider = page.querySelector('.evolution input');"
            "  let other = '';"
            "  if (slider) { slider.value = 0; slider.dispatchEvent(new Event('input'));"
            "    other = shots()[0].innerText; }"
            "  const said = [root.scrollWidth, root.clientWidth, shown.length, shown[0]?.innerText, other.trim()];"
            "  event.target.remove(); document.body.textContent = 'SAID ' + said.join('|');"
            "};</script>",
            encoding="utf-8",
        )
        options = [*CHROMIUM, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
        done = subprocess.run([*options, probe.as_uri()], capture_output=True, text=True, timeout=60)
        found = re.search(r"SAID (\d+)\|(\d+)\|(\d+)\|([^|]*)\|([^<]*)", done.stdout)
        assert found, done.stderr[-2000:]
        assert found[1] == found[2] == str(width)
        if path.name == "report.html":
            assert found[3] == "1"
            assert (found[4].strip(), found[5].strip()) == ("kimg 4", "kimg 2")


def test_a_model_without_text_is_drawn_without_a_prompt(make):
    run = make()
    with open(run / "README.md", "a") as file:
        file.write(f"| draw | python -m trainer.sample checkpoint={run} |\n")
    assert "prompts=" not in text(single.write(run))


def test_the_prompt_to_type_next_is_a_caption_of_the_data(make):
    run = make()
    assert "prompts=[a red apple, a blue car]" in text(single.write(run))
    with open(run / "README.md", "a") as file:
        file.write(f"| draw | python -m trainer.sample checkpoint={run} 'prompts=[a large red circle]' |\n")
    assert "prompts=[a large red circle]" in text(single.write(run))


@pytest.mark.parametrize(
    ("metric", "which"),
    [
        *((each, "lowest") for each in ("fd_effnet", "rfd_effnet2", "kd_effnet", "fid", "rfid", "clean_fid")),
        *((each, "lowest") for each in ("bits_per_value", "iwae_bits_per_value", "lpips")),
        *((each, "highest") for each in ("psnr", "ssim", "r_precision", "precision_effnet", "inception_score")),
    ],
)
def test_the_best_of_a_metric_is_its_lowest_or_highest(make, table, metric, which):
    rows = [{**row, f"val/{metric}": row["val/fd_effnet"]} for row in table(305) if "val/fd_effnet" in row]
    values = {name: remark for name, _, remark in single.facts(Run(make(table=rows)))}
    assert values[f"val/{metric}"].startswith(which)
