"""Plain values from YAML and JSON: no code, no unbounded repetition, no duplicate keys.

Documents may come from somebody else. Aliases of YAML can repeat their content without limit, so
the number of values that result from them is counted before any value is made.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import yaml

#: Largest number of values in a document, with those that aliases repeat, and largest nesting.
MOST_VALUES, MOST_LEVELS = 200_000, 50


def load_yaml(text: str) -> Any:
    """The plain values in a YAML text. Raises ValueError with place, reason and remedy."""
    loader = None
    try:
        loader = _PlainLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {}, 0)
        return loader.construct_document(node)
    except yaml.YAMLError as problem:
        raise ValueError(yaml_problem(problem)) from None
    except (KeyError, IndexError, AttributeError, TypeError, OverflowError) as problem:
        raise ValueError(f"a value cannot be read as the type of its tag ({problem}).") from None
    except RecursionError:
        raise ValueError(f"it has more than {MOST_LEVELS} levels.") from None
    finally:
        if loader is not None:
            loader.dispose()


def load_json(text: str) -> Any:
    """The plain values in a JSON text. Raises ValueError with place and reason."""
    try:
        content = json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError(f"it has more than {MOST_LEVELS} levels.") from None
    _check_levels(content)
    return content


def _check_levels(content: Any, level: int = 0) -> None:
    if level > MOST_LEVELS:
        raise ValueError(f"it has more than {MOST_LEVELS} levels.")
    for item in content.values() if isinstance(content, dict) else (
            content if isinstance(content, list) else ()):
        _check_levels(item, level + 1)


def _count(node: yaml.Node, known: dict[int, int], level: int) -> int:
    """The number of values of a node, with repetitions by aliases."""
    if level > MOST_LEVELS:
        raise ValueError(f"it has more than {MOST_LEVELS} levels, or an alias contains itself.")
    if id(node) not in known:
        below: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            below = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            below = node.value
        known[id(node)] = 1 + sum(_count(part, known, level + 1) for part in below)
    if known[id(node)] > MOST_VALUES:
        raise ValueError(f"its aliases result in more than {MOST_VALUES:,} values. Remove aliases.")
    return known[id(node)]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dictionary. Raises ValueError for duplicate keys."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        double = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"Duplicate key '{double}' in one mapping; keep one of the two.")
    return mapping


class _PlainLoader(yaml.SafeLoader):
    """Loader of plain YAML that raises ValueError for duplicate keys.

    As in YAML 1.2, only true and false are booleans (not yes, no, on and off), and dates and times are
    texts.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        seen = set()
        for key, (place, _) in zip(keys, node.value, strict=True):
            if not isinstance(key, str | int | float):
                raise ValueError(f"line {place.start_mark.line + 1}: a key must be a text.")
            if key in seen:
                raise ValueError(
                    f"line {place.start_mark.line + 1}: duplicate key '{key}' in one mapping; "
                    f"keep one of the two."
                )
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers
            if not tag.endswith((":bool", ":timestamp", ":int", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile("^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)"
        r"|\.(?:nan|NaN|NAN))$"), list("-+0123456789."))


def yaml_problem(problem: yaml.YAMLError | Exception) -> str:
    """The place, the reason and the remedy of a syntax error in YAML or JSON."""
    mark = getattr(problem, "problem_mark", None)
    if not isinstance(problem, yaml.MarkedYAMLError) or mark is None:
        return str(problem)
    reason = ": ".join(text for text in (problem.context, problem.problem) if text)
    text = f"line {mark.line + 1}, column {mark.column + 1}: {reason}."
    if mark.buffer is not None:
        text += "\n" + (mark.get_snippet(indent=2) or "")
    if "\\t" in repr(problem.problem):
        text += "\nUse spaces instead of tabs for the indentation."
    elif "mapping values are not allowed" in str(problem.problem):
        text += "\nPut a text that contains a colon in quotes, and check the indentation."
    elif "alias" in str(problem.context):
        text += "\nPut wildcards in quotes: \"*.B_iso\"."
    return text
