"""--ids takes an id as it is; a file of ids is split at line ends and nowhere else."""

import json
from pathlib import Path

import pytest

from taft_ray.cli.selection import explaining_commas, ids_from, read_ids
from taft_ray.errors import UnknownSample, UsageError

ODD = [" a", "pad   ", "x\u2028y", "x\x85y", "a,b", "  ", "\ta", "x\x0cy", "x\x1cy", "#1", "é", "e\u0301", '"q"', "[1]"]


@pytest.mark.parametrize("name", ODD)
def test_an_id_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    assert read_ids(name) == [name]
    for end in ("\n", "\r\n", ""):
        (tmp_path / "ids.txt").write_bytes(f"{name}{end}".encode())
        assert read_ids(f"@{tmp_path / 'ids.txt'}") == [name]
        (tmp_path / "ids.jsonl").write_bytes(f"{json.dumps(name)}{end}".encode())
        assert read_ids(f"@{tmp_path / 'ids.jsonl'}") == [name]


def test_a_file_has_all_of_them_in_order(tmp_path: Path) -> None:
    for end in ("\n", "\r\n"):
        (tmp_path / "ids.txt").write_bytes(end.join(["@at", *ODD, ""]).encode())
        assert read_ids(f"@{tmp_path / 'ids.txt'}") == ["@at", *ODD]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_no_part_of_an_id(tmp_path: Path, encoding: str) -> None:
    for name, line in (("ids.txt", "s20"), ("ids.jsonl", '"s20"')):
        (tmp_path / name).write_bytes(f"{line}\r\n{line.replace('20', '21')}\r\n".encode(encoding))
        assert read_ids(f"@{tmp_path / name}") == ["s20", "s21"]
    (tmp_path / "ids.txt").write_bytes("a\n\ufeffb\n".encode())
    assert read_ids(f"@{tmp_path / 'ids.txt'}") == ["a", "\ufeffb"]


def test_json_lines_name_what_no_line_can(tmp_path: Path) -> None:
    (tmp_path / "ids.jsonl").write_text('"a\\nb"\n\n{"id": "c\\rd", "why": "asked"}\n17\n', encoding="utf-8")
    assert read_ids(f"@{tmp_path / 'ids.jsonl'}") == ["a\nb", "c\rd", "17"]


@pytest.mark.parametrize(
    "line",
    ["a", "1.5", "true", "null", "[1]", '""', '{"name": "a"}', '"\\ud800"', "[" * 200_000, '{"id": "a", "id": "b"}'],
)
def test_json_lines_that_name_nothing_are_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "ids.jsonl").write_text(f'"a"\n{line}\n', encoding="utf-8")
    with pytest.raises(UsageError, match=r"line 2|not UTF-8"):
        read_ids(f"@{tmp_path / 'ids.jsonl'}")


def test_ids_that_are_no_text_are_refused() -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        read_ids("a\udcff")


def test_each_option_is_one_id_and_each_id_is_there_once(tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("b\na\n", encoding="utf-8")
    assert ids_from(["a", f"@{tmp_path / 'ids'}", "c", "a"]) == ("a", "b", "c")


def test_commas_are_explained_where_an_id_is_unknown() -> None:
    with (
        pytest.raises(UnknownSample, match=r"nobody.*'a,b' is one\. Give --ids once per id"),
        explaining_commas(["a,b"]),
    ):
        raise UnknownSample("nobody")
    with pytest.raises(UnknownSample, match=r"^nobody$"), explaining_commas(["a"]):
        raise UnknownSample("nobody")
