"""Constraints: parameters computed from other parameters by arithmetic, with exact derivatives."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aiida_dse.engine.parameters import closest
from aiida_dse.engine.units import FloatArray

#: A number, or an array with one number for each point of a grid.
Numbers = float | FloatArray
#: The form of a parameter name in an expression.
NAME = re.compile(r"[A-Za-z_][\w']*(?:\.[\w']+)+")
#: Step of the complex-step derivative, which is exact to rounding for any small step.
COMPLEX_STEP = 1e-30

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.true_divide,
    ast.Pow: np.power,
}
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sqrt": np.sqrt, "exp": np.exp, "log": np.log, "sin": np.sin, "cos": np.cos, "tan": np.tan,
    "tanh": np.tanh, "coth": lambda x: 1 / np.tanh(x),
    "abs": lambda x: np.where(np.real(x) < 0, -x, x),
}
_DEEPEST = 50


@dataclass(frozen=True)
class Constraint:
    """A parameter computed from other parameters: 'p.Br_ax.B_iso' = '1.5 * p.Br_eq.B_iso'.

    The expression consists of numbers, parameter names, + - * / ** and sqrt, exp, log, sin, cos,
    tan, tanh, coth, abs. It is parsed once and never executed as code.
    """

    target: str
    expression: str
    sources: tuple[str, ...]
    body: ast.expr

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constraint) and (self.target, self.expression) == (
            other.target, other.expression)

    def __hash__(self) -> int:
        return hash((self.target, self.expression))

    @classmethod
    def parse(cls, target: str, expression: str, known: Iterable[str]) -> Constraint:
        """The constraint of `target` by an expression in the `known` parameter names.

        Raises ValueError for unknown names, for an expression that contains its target, and for
        anything but plain arithmetic.
        """
        names = sorted(known, key=len, reverse=True)
        pattern = re.compile(
            r"(?<![\w.])(?:" + "|".join(re.escape(name) for name in names) + r")(?![\w.'])"
        )
        sources = tuple(dict.fromkeys(pattern.findall(expression))) if names else ()
        for unknown in NAME.findall(pattern.sub("1", expression) if names else expression):
            raise ValueError(
                f"the constraint {target} = '{expression}' contains '{unknown}', which is not a "
                f"parameter{closest(unknown, names)}."
            )
        if target in sources:
            raise ValueError(
                f"the constraint {target} = '{expression}' refers to itself. Remove {target} from "
                "the expression."
            )
        template = pattern.sub(lambda m: f"p{sources.index(m.group())}_", expression)
        try:
            body = ast.parse(template.strip(), mode="eval").body
            _require_arithmetic(body, {f"p{k}_" for k in range(len(sources))})
        except (SyntaxError, RecursionError, MemoryError, ValueError) as problem:
            raise ValueError(
                f"the constraint {target} = '{expression[:80]}' is not plain arithmetic "
                f"({problem}). Use numbers, parameter names, + - * / **, and "
                f"{', '.join(_FUNCTIONS)}."
            ) from None
        constraint = cls(target, expression, sources, body)
        if not sources:
            constraint.value({})
        return constraint

    def value(self, values: Mapping[str, Numbers]) -> Numbers:
        """The target at numbers or at arrays that broadcast; nan where a source is nan.

        Raises ValueError where the value of the expression is not finite.
        """
        sources = [np.asarray(values[name], dtype=float) for name in self.sources]
        result = self._computed(sources)
        known = np.isfinite(np.sum(sources, axis=0)) if _same_shape(sources) else np.all(
            np.broadcast_arrays(*[np.isfinite(source) for source in sources]), axis=0)
        if not np.isfinite(np.where(known, result, 0.0)).all():
            at = ", ".join(f"{name} = {np.ravel(source)[0]:g}"
                           for name, source in zip(self.sources, sources, strict=True))
            raise ValueError(
                f"the constraint {self.target} = '{self.expression}' has no finite value"
                f"{f' at {at}' if at else ''}. Correct the expression."
            )
        return float(result) if result.ndim == 0 else np.where(known, result, np.nan)

    def slopes(self, values: Mapping[str, float]) -> FloatArray:
        """d target / d source (n_sources,), by complex steps, which are exact to rounding."""
        at = [np.asarray(values[name], dtype=complex) for name in self.sources]
        return np.array([
            np.imag(self._computed([x + 1j * COMPLEX_STEP if i == k else x
                                    for i, x in enumerate(at)])) / COMPLEX_STEP
            for k in range(len(at))
        ])

    def _computed(self, sources: Sequence[np.ndarray]) -> np.ndarray:
        symbols = {f"p{k}_": source for k, source in enumerate(sources)}
        with np.errstate(all="ignore"):
            return np.asarray(_evaluated(self.body, symbols))


def _same_shape(arrays: Sequence[np.ndarray]) -> bool:
    return len({array.shape for array in arrays}) <= 1


def _require_arithmetic(node: ast.expr, symbols: set[str], depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
    below: list[ast.expr] = []
    if isinstance(node, ast.Constant):
        ok = isinstance(node.value, int | float) and not isinstance(node.value, bool)
    elif isinstance(node, ast.Name):
        ok = node.id in symbols
    elif isinstance(node, ast.UnaryOp):
        ok, below = isinstance(node.op, ast.USub | ast.UAdd), [node.operand]
    elif isinstance(node, ast.BinOp):
        ok, below = type(node.op) in _BINARY, [node.left, node.right]
    elif isinstance(node, ast.Call):
        ok = (isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
              and len(node.args) == 1 and not node.keywords)
        below = node.args if ok else []
    else:
        ok = False
    if not ok:
        raise ValueError(f"'{ast.unparse(node)}' is not allowed")
    for part in below:
        _require_arithmetic(part, symbols, depth + 1)


def _evaluated(node: ast.expr, symbols: Mapping[str, np.ndarray]) -> Any:
    if isinstance(node, ast.Constant):
        return np.float64(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.Name):
        return symbols[node.id]
    if isinstance(node, ast.UnaryOp):
        value = _evaluated(node.operand, symbols)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        return _BINARY[type(node.op)](
            _evaluated(node.left, symbols), _evaluated(node.right, symbols))
    assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    return _FUNCTIONS[node.func.id](_evaluated(node.args[0], symbols))


def ordered_constraints(constraints: Sequence[Constraint]) -> list[Constraint]:
    """The constraints, each after those of its sources; ValueError if they are circular."""
    waiting = {constraint.target: constraint for constraint in constraints}
    done: list[Constraint] = []
    while waiting:
        ready = [c for c in waiting.values() if not set(c.sources) & set(waiting)]
        if not ready:
            raise ValueError(
                f"the constraints of {', '.join(sorted(waiting))} are circular. Leave one of them "
                "unconstrained."
            )
        for constraint in ready:
            done.append(constraint)
            del waiting[constraint.target]
    return done


def followers(constraints: Iterable[Constraint], names: Iterable[str]) -> list[str]:
    """The targets that change with the named parameters; `constraints` must be in order."""
    moved, targets = set(names), []
    for constraint in constraints:
        if moved & set(constraint.sources):
            moved.add(constraint.target)
            targets.append(constraint.target)
    return targets


def constraint_gradient(
    constraints: Sequence[Constraint], values: Mapping[str, float], free: Sequence[str]
) -> dict[str, FloatArray]:
    """d target / d free (n_free,) of every constraint at complete `values`, by the chain rule."""
    rows = {name: unit for name, unit in zip(free, np.eye(len(free)), strict=True)}
    gradient: dict[str, FloatArray] = {}
    for constraint in constraints:
        row = np.zeros(len(free))
        for source, slope in zip(constraint.sources, constraint.slopes(values), strict=True):
            if source in rows:
                row = row + slope * rows[source]
        gradient[constraint.target] = rows[constraint.target] = row
    return gradient
