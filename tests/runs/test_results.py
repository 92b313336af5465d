from dataclasses import replace

import pytest

from trainer.errors import UserError
from trainer.runs import results
from trainer.runs.results import Figure

FID = Figure("fid", 12.5, "lower", "kimg000001.000.ckpt", 1.0, {"num_images": 100, "sha256": "abc"})


def test_written_and_read_back(tmp_path):
    assert results.read(tmp_path) == []
    results.add(tmp_path, [FID, replace(FID, metric="kid", std=0.1)])
    results.add(tmp_path, [replace(FID, value=11.0), replace(FID, protocol={"num_images": 200, "sha256": "abc"})])
    found = results.read(tmp_path)
    assert [(each.metric, each.value, each.protocol["num_images"]) for each in found] == [
        ("fid", 11.0, 100),  # measured again, in its place
        ("kid", 12.5, 100),
        ("fid", 12.5, 200),
    ]
    assert found[1].std == 0.1


def test_only_equal_protocols_compare():
    assert results.difference(FID, replace(FID, value=10.0, kimg=2.0, checkpoint="other")) == 2.5
    with pytest.raises(UserError, match="num_images=100, the other 200"):
        results.difference(FID, replace(FID, protocol={"num_images": 200, "sha256": "abc"}))
    with pytest.raises(UserError, match="resizer=None, the other clean"):
        results.difference(FID, replace(FID, protocol=FID.protocol | {"resizer": "clean"}))
    with pytest.raises(UserError, match="different metrics"):
        results.difference(FID, replace(FID, metric="kid"))


def test_a_damaged_file_is_told(tmp_path):
    (tmp_path / results.FILE).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        results.read(tmp_path)


@pytest.mark.parametrize("anchors", [[1], {"real": 1.0}, {"real": "<b>", "shuffled": 2.0}, "x"])
def test_anchors_are_two_numbers(tmp_path, anchors):
    results.add(tmp_path, [replace(FID, anchors={"real": 1.0, "shuffled": 2.0, "pictures": "some"})])
    assert results.read(tmp_path)[0].anchors["shuffled"] == 2.0
    results.add(tmp_path, [replace(FID, anchors=anchors)])
    with pytest.raises(UserError, match="damaged"):
        results.read(tmp_path)
