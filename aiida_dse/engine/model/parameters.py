"""Parameters as values: name, unit, bounds, standard uncertainty, ties."""

from __future__ import annotations

import ast
import fnmatch
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

#: What looks like a parameter's name in a tie.
NAME = re.compile(r"[A-Za-z_][\w']*(?:\.[\w']+)+")


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


def require_possible(name: str, unit: str, lower: float, upper: float) -> None:
    """Raise ValueError where no crystal or particle can have all values from lower to upper."""
    local = name.rpartition(".")[2]
    limits = {"B": (0.0, 1000.0), "occupancy": (0.0, 1.0)}.get(local)
    if limits is None and unit in ("Å", "nm"):
        limits = (1e-6, 1e6)
    if local in ("alpha", "beta", "gamma"):
        limits = (1.0, 179.0)
    if limits and not limits[0] <= lower <= upper <= limits[1]:
        raise ValueError(
            f"{name} would run from {lower:g} to {upper:g} {unit}, but only {limits[0]:g} to "
            f"{limits[1]:g} is possible. Correct its value, bounds or tie."
        )


_BINARY: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.Pow: operator.pow,
}
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "sqrt": math.sqrt, "exp": math.exp, "log": math.log, "sin": math.sin, "cos": math.cos,
    "tan": math.tan, "tanh": math.tanh, "coth": lambda x: 1 / math.tanh(x), "abs": abs,
}


@dataclass(frozen=True)
class Tie:
    """A parameter computed from others by arithmetic: 'p.Br_ax.B' = '1.5 * p.Br_eq.B'.

    The expression is parsed into numbers, parameter names, + - * / ** and sqrt, exp, log, sin,
    cos, tan, tanh, coth, abs; nothing is ever executed.
    """

    target: str
    expression: str
    sources: tuple[str, ...]
    template: str

    @classmethod
    def parse(cls, target: str, expression: str, known: Iterable[str]) -> Tie:
        names = sorted(known, key=len, reverse=True)
        pattern = re.compile(
            r"(?<![\w.])(?:" + "|".join(re.escape(name) for name in names) + r")(?![\w.'])"
        )
        sources = tuple(dict.fromkeys(pattern.findall(expression))) if names else ()
        for unknown in NAME.findall(pattern.sub("1", expression) if names else expression):
            raise ValueError(
                f"the tie {target} = '{expression}' names '{unknown}', which is no parameter"
                f"{closest(unknown, names)}."
            )
        if target in sources:
            raise ValueError(f"the tie {target} = '{expression}' refers to itself.")
        template = pattern.sub(lambda m: f"p{sources.index(m.group())}_", expression)
        tie = cls(target, expression, sources, template)
        body = tie._parsed()
        try:
            _arithmetic(body, {f"p{k}_": 1.0 for k in range(len(sources))})
        except TypeError as problem:
            raise tie._refusal(problem) from None
        except (ArithmeticError, ValueError) as problem:
            # numbers of 1 are no test of the arithmetic; the starting values are
            if not sources:
                raise tie._refusal(problem) from None
        return tie

    def value(self, values: Mapping[str, float]) -> float:
        symbols = {f"p{k}_": values[source] for k, source in enumerate(self.sources)}
        try:
            result = _arithmetic(self._parsed(), symbols)
        except (ArithmeticError, ValueError) as problem:
            at = ", ".join(f"{source} = {values[source]:g}" for source in self.sources)
            raise ValueError(
                f"the tie {self.target} = '{self.expression}' has no value at {at or 'all'} "
                f"({problem}). Correct the expression."
            ) from None
        if not math.isfinite(result):
            raise ValueError(f"the tie {self.target} = '{self.expression}' gives {result}.")
        return result

    def _parsed(self) -> ast.expr:
        try:
            return ast.parse(self.template.strip(), mode="eval").body
        except (SyntaxError, RecursionError, MemoryError, ValueError) as problem:
            raise self._refusal(problem) from None

    def _refusal(self, problem: Exception) -> ValueError:
        return ValueError(
            f"the tie {self.target} = '{self.expression[:80]}' is not plain arithmetic "
            f"({problem}). Use numbers, parameter names, + - * / **, and {', '.join(_FUNCTIONS)}."
        )


def _arithmetic(node: ast.expr, symbols: Mapping[str, float], depth: int = 0) -> float:
    if depth > 50:
        raise TypeError("it is nested more than 50 deep")
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(
        node.value, bool
    ):
        return float(node.value)
    if isinstance(node, ast.Name) and node.id in symbols:
        return symbols[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _arithmetic(node.operand, symbols, depth + 1)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left = _arithmetic(node.left, symbols, depth + 1)
        right = _arithmetic(node.right, symbols, depth + 1)
        result = _BINARY[type(node.op)](left, right)
        if isinstance(result, complex):
            raise ValueError("a root of a negative number")
        return result
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in _FUNCTIONS
        and len(node.args) == 1
        and not node.keywords
    ):
        return _FUNCTIONS[node.func.id](_arithmetic(node.args[0], symbols, depth + 1))
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
    return f" (did you mean {' or '.join(hits)}?)" if hits else ""
