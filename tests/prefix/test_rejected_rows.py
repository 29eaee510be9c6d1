"""The rejected rows can be read after a training that ended for them, and after one that did not."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from command import here
from plain import plain_train
from tiny import picture

from taft_ray.errors import TooManyRejected
from taft_ray.prefix.rejections import remove_lists
from taft_ray.storage import Store


def _folder(where: Path, cut: Mapping[str, int]) -> Path:
    """Twelve pictures of two classes; those of ``cut`` end after so many bytes."""
    for number in range(12):
        name = f"{('ant', 'bee')[number % 2]}/{number}.png"
        path = where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number)[: cut.get(name)])
    return where


def test_rejected_rows_before_and_after_a_training(
    tmp_path: Path, spec_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from taft_ray.orchestration import session

    monkeypatch.setattr(session, "connect", lambda: pytest.fail("Ray was started to read a list"))
    data = _folder(tmp_path / "data", {"ant/0.png": 99, "bee/3.png": 0})
    (data / "ant" / "notes.txt").write_text("no picture")
    run, spec = tmp_path / "run", spec_of(data, shards=2, max_rejected=0.1)
    with pytest.raises(TooManyRejected, match=r"bee/3\.png.*reports/rejected\.jsonl in .* lists all of them"):
        plain_train(run, spec)
    expected = [
        {"file": "ant/0.png", "row": 0, "reason": "truncated picture"},
        {"file": "ant/notes.txt", "row": 0, "reason": "not an image"},
        {"file": "bee/3.png", "row": 0, "reason": "no image"},
    ]
    answer = here("status", run, "--rejected", "--json").json
    assert answer["rejected_rows"] == expected
    assert answer["listed_in"] == "reports/rejected.jsonl"

    other = tmp_path / "other"
    plain_train(other, spec_of(data, shards=2, max_rejected=0.5))
    answer = here("status", other, "--rejected", "--json").json
    assert answer["rejected_rows"] == expected
    assert answer["listed_in"].startswith("manifest/rows-")
    assert not (other / "reports").exists()
    assert "bee/3.png" in here("status", other, "--rejected").out


def test_list_goes_with_the_pass_that_succeeds_and_with_a_purge(tmp_path: Path, spec_of: Callable[..., Any]) -> None:
    data = _folder(tmp_path / "data", {"ant/0.png": 99})
    run, spec = tmp_path / "run", spec_of(data, shards=2)
    with pytest.raises(TooManyRejected):
        plain_train(run, spec)
    listed = run / "reports" / "rejected.jsonl"
    assert listed.exists()
    _folder(tmp_path / "data", {})  # mended
    plain_train(run, spec)
    assert not listed.exists()
    assert here("status", run, "--rejected", "--json").json["rejected_rows"] == []
    (run / "reports" / "rejected-eval-0.jsonl").write_text("of an evaluation")
    (run / "reports" / "report.html").write_text("stays")
    remove_lists(Store(str(run)))
    assert [path.name for path in (run / "reports").iterdir()] == ["report.html"]
