"""What the rows say, worked out by hand from the stages of conftest.py."""

from __future__ import annotations

from trainer.compression.comparison.latency import Speed
from trainer.compression.comparison.table import markdown, over_the_best, rows, text
from trainer.compression.comparison.variant import Stage


def test_the_cells_of_each_stage(stages):
    head, cells = rows(stages)
    found = [dict(zip(head, row, strict=True)) for row in cells]
    assert [row["stage"] for row in found] == ["teacher", "fold", "int8"]
    assert [row["ms"] for row in found] == ["8", "4", "2"]
    assert [row["latency speed-up"] for row in found] == ["1.00×", "2.00×", "4.00×"]
    assert [row["images/s (batch)"] for row in found] == ["210 (4)", "420 (4)", "1,680 (16)"]
    # rounds: 1600/400, 2200/440 = 5, 1680/420
    assert [row["speed-up of the step"] for row in found] == ["", "2.00×", "4.00×"]
    assert [row["speed-up"] for row in found] == ["1.00×", "2.00×", "8.00×"]
    assert [row["MiB"] for row in found] == ["20", "20", "5"]
    assert [row["size ratio"] for row in found] == ["1.00×", "1.00×", "4.00×"]
    assert [row["M multiply-adds"] for row in found] == ["250", "125", "125"]
    assert [row["FD"] for row in found] == ["10", "10 (+0.0%)", "10.3 (+3.0%)"]
    assert [row["attribute accuracy"] for row in found] == ["98.0%", "98.0% (+0.0)", "97.5% (-0.5)"]
    assert [row["R-precision"] for row in found] == ["90.0%", "", "90.5% (+0.5)"]
    assert [row["PSNR"] for row in found] == ["", "80.0", "34.6"]
    assert [row["SSIM"] for row in found] == ["", "1.000", "0.987"]


def test_columns_of_which_nothing_is_known_are_left_out(stages):
    bare = [Stage("teacher", speed=stages[0].speed), Stage("int8", speed=stages[2].speed)]
    assert rows(bare)[0] == ["stage", "ms", "latency speed-up", "images/s (batch)", "speed-up of the step", "speed-up"]
    assert rows([Stage("teacher"), Stage("int8")]) == (["stage"], [["teacher"], ["int8"]])


def test_lines_up_in_a_terminal_and_in_markdown(stages):
    lines = text(stages).splitlines()
    assert lines[0].startswith("stage")
    assert all(line.startswith("| ") and line.count("|") == 15 for line in markdown(stages).splitlines())


def test_what_stands_beside_is_on_no_way_and_a_gain_is_of_the_best_over_the_best(stages):
    assert over_the_best(stages) is None
    bulk = Stage("teacher + fold", speed=Speed({"p50": 8.0}, [8.0] * 3, {4: [400.0, 440.0, 420.0]}), beside=True)
    quick = Stage("teacher in onnxruntime", speed=Speed({"p50": 5.0}, [5.0] * 3, {1: [150.0] * 3}), beside=True)
    last = Stage("int8 in onnxruntime", speed=Speed({"p50": 0.5}, [0.5] * 3, {1: [900.0] * 3}), beside=True)
    assert over_the_best([*stages, last]) is None, "the first alone is no rival"
    beside = [stages[0], bulk, quick, *stages[1:], last]
    head, cells = rows(beside)
    found = {row[0]: dict(zip(head, row, strict=True)) for row in cells}
    assert found["teacher + fold"]["speed-up of the step"] == "2.00×"
    assert found["fold"]["speed-up of the step"] == "2.00×", "over the teacher, as without them"
    assert found["teacher + fold"]["FD"] == found["teacher in onnxruntime"]["MiB"] == ""
    told = "int8 draws 4.00× the images/s of teacher + fold; "
    told += "int8 in onnxruntime one image 10.0× as fast as teacher in onnxruntime"
    assert over_the_best(beside) == ("4.00×", told)
    assert over_the_best(beside[:-1])[1].endswith("; int8 one image 2.50× as fast as teacher in onnxruntime")
