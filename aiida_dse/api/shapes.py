"""Particle shapes for notebooks, made from the sections of documents in `aiida_dse.shapes`.

Sizes are numbers in nm, or pairs (mean, sd) for log-normal distributions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from aiida_dse import shapes
from aiida_dse.documents.reading import validated
from aiida_dse.io.results import plain


class Shape:
    """A particle shape. Raises DocumentError (a ValueError) if a value is invalid."""

    section: ClassVar[type[shapes.Shape]]

    def __init__(self, **values: Any) -> None:
        sizes = self.section.size_fields
        self._content = {"shape": self.section.name} | {
            name: _size(name, value, self.section) if name in sizes else plain(value)
            for name, value in values.items() if value is not None}
        validated(self._content, self.section)

    def __repr__(self) -> str:
        given = ((name, value) for name, value in self._content.items() if name != "shape")
        return f"{type(self).__name__}({', '.join(f'{name}={_shown(value)}' for name, value in given)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shape) and self._content == other._content

    def __hash__(self) -> int:
        return hash(repr(self))

    def content(self) -> dict[str, Any]:
        """The section 'particle' of a document."""
        return dict(self._content)


def _size(name: str, value: Any, section: type[shapes.Shape]) -> Any:
    """A size in a document: a number, or the distribution (mean, sd).

    Raises ValueError for numbers where only distributions are possible, and for sequences of other
    lengths.
    """
    if isinstance(value, Mapping):
        return plain(value)
    single = not isinstance(value, Sequence)
    if single and section.accepts_number(name):
        return plain(value)
    if single or len(value) != 2 or isinstance(value, str):
        raise ValueError(
            f"{name} = {value!r} is not a size distribution; specify the mean and the standard "
            f"deviation in nm, such as {name}=(5.0, 0.7)."
        )
    return {"mean": float(value[0]), "sd": float(value[1])}


def _shown(value: Any) -> str:
    if isinstance(value, Mapping) and value.keys() == {"mean", "sd"}:
        value = (value["mean"], value["sd"])
    return repr(value)


def _notebook_class(section: type[shapes.Shape]) -> type[Shape]:
    return type(section.__name__, (Shape,), {"section": section, "__doc__": section.__doc__,
                                             "__module__": __name__})


#: The classes by their names.
NOTEBOOK_SHAPES = {section.__name__: _notebook_class(section) for section in shapes.SHAPES.values()}


def __getattr__(name: str) -> Any:
    if name not in NOTEBOOK_SHAPES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return NOTEBOOK_SHAPES[name]
