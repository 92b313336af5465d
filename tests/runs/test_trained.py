"""When two runs are alike enough to teach, judge or be compared."""

import pytest

from trainer.errors import UserError
from trainer.runs import trained


def test_a_tokenizer_is_known_by_what_it_holds_not_by_where_it_lies(tmp_path):
    for name, text in (("one", "words"), ("copy", "words"), ("other", "others")):
        (tmp_path / name).write_text(text)

    def config(file):
        return {"text": {"encoder": {"path": str(tmp_path / file), "max_tokens": 24, "cache_dir": file}}}

    trained.require_alike(config("one"), config("copy"), "teacher=run")
    with pytest.raises(UserError, match=r"teacher=run has text\.encoder="):
        trained.require_alike(config("one"), config("other"), "teacher=run")
    with pytest.raises(UserError, match=r"text\.encoder="):
        trained.require_alike(config("one"), config("lost"), "teacher=run")
    nowhere = {"text": {"encoder": {"path": None, "max_tokens": 24}}}
    trained.require_alike(nowhere, nowhere, "teacher=run")
