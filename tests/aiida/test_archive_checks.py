"""Archives that would exhaust memory or never end are refused before AiiDA reads them."""

from __future__ import annotations

import sqlite3
import zipfile
from pathlib import Path

import pytest
from aiida.orm import Node, QueryBuilder
from click.testing import CliRunner

from aiida_dse.cli.main import main
from aiida_dse.data.archive_checks import LARGE_MEMBER, check_archive

ARCHIVE = Path(__file__).parents[1] / "data" / "archive_0_1_0.aiida"
ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n) select nodes.* from nodes, n"


@pytest.fixture
def members(tmp_path):
    folder = tmp_path / "members"
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


def packed(folder: Path, file: Path) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, str(path.relative_to(folder)))
    return file


def statements(*sql):
    def change(folder):
        connection = sqlite3.connect(folder / "db.sqlite3")
        for one in sql:
            connection.execute(one)
        connection.commit()
        connection.close()
    return change


def content(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def cut(folder):
    path = folder / "db.sqlite3"
    path.write_bytes(path.read_bytes()[:5000])


DAMAGES = {
    "view": (statements("alter table db_dbnode rename to nodes", f"create view db_dbnode as {ENDLESS}"), "view"),
    "trigger": (statements("create trigger t after insert on db_dbnode begin select 1; end"), "trigger"),
    "computed": (statements("create table c (a, b generated always as (hex(zeroblob(1e9))))"), "computes"),
    "virtual": (statements("create virtual table v using fts5(x)"), "'v'"),
    "metadata": (content("metadata.json", b" " * 30_000_000), "30 MB; the limit is 10 MB"),
    "member": (content("repo.bin", bytes(LARGE_MEMBER + 1)), "expands"),
    "garbage": (content("db.sqlite3", b"no database" * 1000), "not a database"),
    "cut": (cut, ""),
    "no database": (lambda folder: (folder / "db.sqlite3").unlink(), "db.sqlite3"),
    "no metadata": (lambda folder: (folder / "metadata.json").unlink(), "metadata"),
    "list": (content("metadata.json", b"[]"), "dictionary"),
}


def test_a_second_member_of_the_same_name_is_refused(members, tmp_path):
    file = packed(members, tmp_path / "a.aiida")
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.write(members / "db.sqlite3", "db.sqlite3")
    with pytest.raises(ValueError, match="two members of the same name"):
        check_archive(file)


@pytest.mark.parametrize("command", [["import"], ["query", "--archive"], ["list", "--archive"]])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_harmful_or_damaged_archive_is_refused(own_storage, members, tmp_path, damage, command):
    change, reason = DAMAGES[damage]
    change(members)
    file = packed(members, tmp_path / "a.aiida")
    before = QueryBuilder().append(Node).count()
    result = CliRunner().invoke(main, [*command, str(file)])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.output
    assert str(file) in result.output and "cannot be read as an AiiDA archive" in result.output
    assert reason in result.output
    assert QueryBuilder().append(Node).count() == before


def test_an_archive_that_aiida_wrote_is_accepted(computer, own_storage, members, tmp_path):
    """The archive contains a computer with the label of that of the tests, which must exist before."""
    check_archive(ARCHIVE)
    result = CliRunner().invoke(main, ["import", str(packed(members, tmp_path / "a.aiida"))])
    assert result.exit_code == 0 and "nodes were imported" in result.output
