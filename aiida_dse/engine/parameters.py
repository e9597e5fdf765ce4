"""Parameters as values: name, unit, bounds, standard uncertainty, ties."""

from __future__ import annotations

import ast
import fnmatch
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

NAME = re.compile(r"[A-Za-z_][\w\-+']*(?:\.[\w\-+']+)+")


@dataclass(frozen=True)
class Parameter:
    """A non-linear parameter of the model. `su` is its unscaled standard uncertainty."""

    name: str
    value: float
    unit: str = ""
    lower: float = -math.inf
    upper: float = math.inf
    su: float | None = None
    at_bound: bool = False
    insensitive: bool = False

    def __post_init__(self) -> None:
        if not self.lower <= self.upper:
            raise ValueError(
                f"{self.name}: the lower bound {self.lower:g} is above the upper bound "
                f"{self.upper:g} {self.unit}. Swap them."
            )
        if not math.isfinite(self.value):
            raise ValueError(f"{self.name}: the value {self.value} is not a finite number.")
        if not self.lower <= self.value <= self.upper:
            raise ValueError(
                f"{self.name}: the value {self.value:g} {self.unit} lies outside its bounds "
                f"{self.lower:g} ... {self.upper:g}. Move the value or widen the bounds."
            )

    def refined(self, value: float, **changes: object) -> Parameter:
        return replace(self, value=value, **changes)  # type: ignore[arg-type]


_BINARY: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.Pow: operator.pow,
}
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "sqrt": math.sqrt, "exp": math.exp, "log": math.log, "sin": math.sin, "cos": math.cos,
    "tan": math.tan, "abs": abs,
}


@dataclass(frozen=True)
class Tie:
    """A parameter computed from others by arithmetic: 'perovskite.Br_ax.B' = '1.5 * perovskite.Br_eq.B'.

    The expression is parsed into numbers, parameter names, + - * / ** and sqrt, exp, log, sin,
    cos, tan, abs; nothing is ever executed.
    """

    target: str
    expression: str
    sources: tuple[str, ...]

    @classmethod
    def parse(cls, target: str, expression: str, known: Iterable[str]) -> Tie:
        names = set(known)
        sources = tuple(dict.fromkeys(NAME.findall(expression)))
        for source in sources:
            if source not in names:
                raise ValueError(
                    f"the tie {target} = '{expression}' names '{source}', which is no parameter"
                    f"{closest(source, names)}."
                )
        if target in sources:
            raise ValueError(f"the tie {target} = '{expression}' refers to itself.")
        tie = cls(target, expression, sources)
        try:
            tie.value({name: 1.0 for name in sources})
        except (ZeroDivisionError, OverflowError):
            pass
        except ValueError as problem:
            if "tie" in str(problem):
                raise
        return tie

    def value(self, values: Mapping[str, float]) -> float:
        text = self.expression
        for index, source in enumerate(sorted(self.sources, key=len, reverse=True)):
            text = text.replace(source, f"p{index}_")
        symbols = {
            f"p{index}_": values[source]
            for index, source in enumerate(sorted(self.sources, key=len, reverse=True))
        }
        try:
            return float(_arithmetic(ast.parse(text, mode="eval").body, symbols))
        except (SyntaxError, TypeError) as problem:
            raise ValueError(
                f"the tie {self.target} = '{self.expression}' is not plain arithmetic "
                f"({problem}). Use numbers, parameter names, + - * / **, and "
                f"{', '.join(_FUNCTIONS)}."
            ) from None


def _arithmetic(node: ast.expr, symbols: Mapping[str, float]) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return float(node.value)
    if isinstance(node, ast.Name) and node.id in symbols:
        return symbols[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _arithmetic(node.operand, symbols)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = _arithmetic(node.left, symbols), _arithmetic(node.right, symbols)
        return _BINARY[type(node.op)](left, right)
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in _FUNCTIONS
        and len(node.args) == 1
        and not node.keywords
    ):
        return _FUNCTIONS[node.func.id](_arithmetic(node.args[0], symbols))
    raise TypeError(f"'{ast.unparse(node)}' is not allowed")


def ordered_ties(ties: Sequence[Tie]) -> list[Tie]:
    """The ties in an order in which each is computed after its sources; ValueError on a circle."""
    waiting = {tie.target: tie for tie in ties}
    done: list[Tie] = []
    while waiting:
        ready = [tie for tie in waiting.values() if not set(tie.sources) & set(waiting)]
        if not ready:
            raise ValueError(
                f"the ties of {', '.join(sorted(waiting))} go round in a circle. Break it by "
                "leaving one of them untied."
            )
        for tie in ready:
            done.append(tie)
            del waiting[tie.target]
    return done


def select(patterns: Iterable[str], names: Sequence[str]) -> list[str]:
    """The names that the patterns pick ('*' is a wildcard), in the order of `names`.

    Raises ValueError for a pattern that picks nothing, with the nearest name.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        hits = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not hits:
            raise ValueError(f"'{pattern}' names no parameter{closest(pattern, names)}.")
        chosen.update(hits)
    return [name for name in names if name in chosen]


def closest(name: str, known: Iterable[str]) -> str:
    """A hint for error messages: the most similar known names."""
    import difflib

    hits = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4)
    return f"; did you mean {' or '.join(hits)}?" if hits else ""
