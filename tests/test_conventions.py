"""What the code keeps to, read from its own syntax trees."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiida_dse.documents.status import Failure, PartsFailed, Status, Task
from aiida_dse.engine.parameters import KINDS

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "aiida_dse").rglob("*.py"), *(ROOT / "workchains").rglob("*.py")])
OUTCOMES = {member.value for kind in (Status, Failure, PartsFailed, Task) for member in kind}
#: Quantities that a name may end in: what the table of kinds calls them, and the fixed names.
QUANTITIES = {kind.value for kind in KINDS} | {
    "B", "B_iso", "x", "y", "z", "a", "b", "c", "alpha", "beta", "gamma", "occupancy", "scale",
    "lattice_scale", "size_axes_rotation", "L", "D", "L_ab", "L_c", "sd_L", "sd_D", "sd_ab", "sd_c",
}


def nodes(*kinds: type[ast.AST]) -> Iterator[tuple[str, ast.AST, ast.Module]]:
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, kinds):
                yield path.relative_to(ROOT).as_posix(), node, tree


def texts(node: ast.expr, tree: ast.Module) -> list[str]:
    """The strings in an expression, and those that are assigned to its names in the same file."""
    found = [part.value for part in ast.walk(node)
             if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    for name in (part.id for part in ast.walk(node) if isinstance(part, ast.Name)):
        for statement in ast.walk(tree):
            if isinstance(statement, ast.Assign) and any(
                    isinstance(part, ast.Name) and part.id == name
                    for target in statement.targets for part in ast.walk(target)):
                found += texts(statement.value, ast.Module([], []))
    return found


def last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def test_outcomes_are_compared_as_members_not_as_words():
    """`status is Status.CONVERGED`: a word that is renamed would silently never be equal."""
    found = []
    for place, node, _ in nodes(ast.Compare, ast.MatchValue):
        if place == "aiida_dse/documents/status.py":
            continue
        sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else [node.value]
        words = {text for side in sides for text in texts(side, ast.Module([], []))}
        # `result.status` as well as `result.status.value`
        asked = {last_name(part) for side in sides
                 for part in (side, getattr(side, "value", None)) if isinstance(part, ast.expr)}
        if words & OUTCOMES and (isinstance(node, ast.MatchValue) or asked & {"status", "task"}):
            found.append(f"{place}:{node.lineno}: {ast.unparse(node)}")
    assert not found, "\n".join(found)


#: Documents and results of version 0.1 have nothing but names.
OF_VERSION_0_1 = ("aiida_dse/documents/migration.py", "aiida_dse/documents/result_migration.py")


def test_no_name_is_asked_for_its_kind():
    """`parameter.kind is Kind.B_ISO`, not `name.endswith('.B_iso')`."""
    found = []
    for place, node, tree in nodes(ast.Call, ast.Compare):
        if place in OF_VERSION_0_1:
            continue
        if isinstance(node, ast.Call):
            if last_name(node.func) not in ("endswith", "startswith", "fnmatch", "fnmatchcase"):
                continue
            suffixes = {text.lstrip("*") for one in node.args for text in texts(one, tree)
                        if text.lstrip("*").startswith(".")}
            asked = {suffix[1:] for suffix in suffixes} & QUANTITIES
        else:
            # name.rpartition(".")[2] == "B_iso", or name.quantity == "B_iso"
            sides = [node.left, *node.comparators]
            parsed = any(isinstance(part, ast.Attribute)
                         and part.attr in ("rpartition", "split", "rsplit", "quantity")
                         for side in sides for part in ast.walk(side))
            asked = parsed and {text for side in sides for text in texts(side, tree)} & QUANTITIES
        if asked:
            found.append(f"{place}:{node.lineno}: {ast.unparse(node)}")
    assert not found, "\n".join(found)



def test_the_factor_of_s_u_is_computed_in_one_place():
    """max(1, GoF) is `engine.model.agreement.su_scale`."""
    found = []
    for place, node, _ in nodes(ast.Call):
        if last_name(node.func) in ("max", "maximum", "fmax") and len(node.args) == 2:
            one, other = node.args
            for limit, value in ((one, other), (other, one)):
                if isinstance(limit, ast.Constant) and limit.value == 1 \
                        and last_name(value) == "gof":
                    found.append(place)
    assert found == ["aiida_dse/engine/model/agreement.py"]


@pytest.mark.parametrize(("check", "code"), [
    (test_outcomes_are_compared_as_members_not_as_words, 'a = result.status == "converged"'),
    (test_outcomes_are_compared_as_members_not_as_words, 'a = result.status.value == "converged"'),
    (test_no_name_is_asked_for_its_kind, 'ENDS = (".B_iso", ".x")\nb = name.endswith(ENDS)'),
    (test_no_name_is_asked_for_its_kind,
     'def is_b(name):\n    head, tail = "P.", ".B_iso"\n    return name.endswith(tail)'),
    (test_the_factor_of_s_u_is_computed_in_one_place, 'c = max(1.0, fit.gof)'),
])
def test_the_checks_find_what_they_look_for(monkeypatch, tmp_path, check, code):
    """Each of them, on code that does it wrong."""
    (tmp_path / "wrong.py").write_text(code + "\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "FILES", [tmp_path / "wrong.py"])
    with pytest.raises(AssertionError, match=r"wrong\.py"):
        check()


def test_commands_print_only_texts_that_cannot_control_the_terminal():
    """All output of the commands passes through cli/terminal.py."""
    found = [f"{path.name}:{number}: {line.strip()}"
             for path in sorted((ROOT / "aiida_dse" / "cli").glob("*.py")) if path.name != "terminal.py"
             for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
             if re.search(r"click\.(secho|echo)\(|(?<![\w.])print\(|raise click\.ClickException", line)]
    assert not found, "\n".join(found)
