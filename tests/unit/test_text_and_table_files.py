"""Readers of texts and tables: kinds of columns, missing values, compressed files, one sentence for each refusal."""

from __future__ import annotations

import gzip
import io
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from unfooled.core.errors import BadInput
from unfooled.core.limits import Limits, allowing
from unfooled.data.formats import read_table, read_text, read_texts

CSV = """age,kind,score,member,"note, long"
39,State-gov,1.5,True,a
50,,2,False,"b, c"
38,Private,,true,"line
break"
"""


def write(folder: Path, text: str | bytes, name: str = "a.csv") -> Path:
    path = folder / name
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_kinds_of_columns(tmp_path: Path, name: str, delimiter: str) -> None:
    text = CSV if delimiter == "," else CSV.replace(",", delimiter)
    table = read_table(write(tmp_path, "\ufeff" + text.replace("\n", "\r\n"), name))
    assert table.names == ("age", "kind", "score", "member", f"note{delimiter} long")
    assert [column.dtype.kind for column in table.columns] == ["i", "O", "f", "b", "O"]
    assert table.words == ("kind", "member", f"note{delimiter} long")
    assert table.column("age").tolist() == [39, 50, 38]
    assert table.column("kind").tolist() == ["State-gov", None, "Private"]
    assert math.isnan(table.column("score")[2])
    assert table.columns[4].tolist() == ["a", f"b{delimiter} c", "line\nbreak"]
    assert table.array().shape == (3, 5)
    assert table.array()[1].tolist() == [50, None, 2.0, False, f"b{delimiter} c"]
    assert table.without("kind", "absent").names[:2] == ("age", "score")
    numbers = table.without(*table.words).array()
    assert numbers.dtype == np.float64
    assert table.take([2, 0]).column("age").tolist() == [38, 39]
    assert len(table) == 3


@pytest.mark.parametrize("gone", ["", "NA", "NaN", "null", "n/a", "#N/A N/A", "<NA>", "None"])
def test_missing_values(tmp_path: Path, gone: str) -> None:
    table = read_table(write(tmp_path, f"a,b\n1,x\n{gone},{gone}\n"))
    assert np.isnan(table.column("a")).tolist() == [False, True]
    assert table.column("b").tolist() == ["x", None]
    assert read_table(write(tmp_path, "a,b\n1,?\n2,\n")).column("b").tolist() == ["?", None]


def test_names_of_files_without_a_line_of_names(tmp_path: Path) -> None:
    path = write(tmp_path, "5.1,setosa\n4.9,setosa\n")
    with pytest.raises(BadInput, match=r"looks like a row of values.* give columns"):
        read_table(path)
    assert read_table(path, columns=["length", "name"]).column("length").tolist() == [5.1, 4.9]
    with pytest.raises(BadInput, match="columns names 3 columns"):
        read_table(path, columns=["a", "b", "c"])
    with pytest.raises(BadInput, match="looks like a row"):
        read_table(write(tmp_path, "p,x\np,y\ne,x\n"))
    assert read_table(write(tmp_path, "2019,2020\n1,2\n")).names == ("2019", "2020")
    assert read_table(write(tmp_path, ",a\n0,2\n")).names == ("Unnamed: 0", "a")


def test_kinds_are_those_of_the_training_table(tmp_path: Path) -> None:
    train = read_table(write(tmp_path, "a,b,c,d\n1.5,x,True,1\n2,7,False,2\n"))
    rows = read_table(write(tmp_path, "d,c,b,a\n3,True,8,4\n", "rows.csv"), like=train)
    assert [rows.column(n).dtype.kind for n in "abcd"] == ["f", "O", "b", "i"]
    assert rows.column("b").tolist() == ["8"], "a category that looks like a number stays a word"
    with pytest.raises(BadInput, match=r"column 'a' of .* has 'no', which is no number"):
        read_table(write(tmp_path, "a\nno\n", "rows.csv"), like=train)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("a,b\n", "no rows below"),
        ("a,b\n1,2\n3\n", "row 1 of .* has 1 values, the first line names 2 columns"),
        ("a,a\n1,2\n", "two columns called 'a'"),
        ("a\ninf\n", "infinite values"),
        ("a,b\n1," + "x" * 200_000 + "\n", "field larger than field limit"),
        (b"a\n\xff\xfe\n", "no text in UTF-8"),
        (b"a\n\0\n", "zero bytes"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        read_table(write(tmp_path, text))


def test_columns_and_rows_that_are_not_there(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, CSV))
    with pytest.raises(BadInput, match="has no column 'agee'; did you mean age"):
        table.column("agee")
    for row in (3, -1):
        with pytest.raises(BadInput, match=f"has 3 rows, 0 to 2; {row} is none of them"):
            table.take([row])


def test_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    table = read_table(write(tmp_path, CSV))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(BadInput, match="a frame needs pandas: pip install pandas"):
        table.frame()
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=dict))
    assert list(table.frame()) == list(table.names)


def test_one_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_text(write(tmp_path, "\ufeffOne\r\ntwo\rthree\n", "a.txt")) == "One\ntwo\nthree\n"
    assert read_text(write(tmp_path, "packed", "a.txt.gz")) == "packed"
    assert read_text(write(tmp_path, "", "a.txt")) == ""
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO("ä b".encode())))
    assert read_text("-") == "ä b"
    with (
        allowing(Limits(max_bytes=3)),
        pytest.raises(BadInput, match=r"standard input has more than 3 bytes.*max_bytes"),
    ):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"four")))
        read_text("-")


def test_several_texts(tmp_path: Path) -> None:
    assert read_texts(write(tmp_path, "one\n\n two \n", "a.txt")) == ["one", " two "]
    lines = '{"text": "a b", "label": 1}\n"plain"\n\n{"text": ""}\n'
    for name in ("a.jsonl", "a.jsonl.gz"):
        assert read_texts(write(tmp_path, lines, name)) == ["a b", "plain", ""]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.txt", "\n \n", "there is no text in"),
        ("a.jsonl", '{"text": "a"}\nno\n', "line 2 of .* is no JSON"),
        ("a.jsonl", '{"body": "a"}\n', "line 1 of .* has the fields body; each line"),
        ("a.jsonl", "3\n", "line 1 of .* has no object"),
        ("a.jsonl", "[" * 100_000 + "\n", "line 1 of .* is no JSON"),
    ],
)
def test_texts_that_are_refused(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        read_texts(write(tmp_path, text, name))


@pytest.mark.parametrize("read", [read_text, read_texts, read_table])
def test_files_that_are_refused(tmp_path: Path, read: Any) -> None:
    write(tmp_path, "a", "near.txt")
    with pytest.raises(BadInput, match=r"there is no file .*neer.txt; that folder holds near.txt"):
        read(tmp_path / "neer.txt")
    with pytest.raises(BadInput, match="is a folder; give a file"):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="is a pipe, not a file"):
        read(tmp_path / "pipe")
    (tmp_path / "bad.csv.gz").write_bytes(gzip.compress(b"a\n1\n" * 100)[:-20])
    with pytest.raises(BadInput, match=r"cannot read .*bad.csv.gz"):
        read(tmp_path / "bad.csv.gz")
    (tmp_path / "none.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(BadInput, match=r"cannot read .*none.csv.gz"):
        read(tmp_path / "none.csv.gz")
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"a\n" * 2_000_000))
    with allowing(Limits(max_bytes=1000)), pytest.raises(BadInput, match=r"more than .* bytes.*raise max_bytes"):
        read(tmp_path / "bomb.csv.gz")
