"""A small thread-safe cache of computed values."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Memo(Generic[Value]):
    """The `size` values used last, by key; a thread that asks for one being computed waits."""

    def __init__(self, size: int = 1) -> None:
        self._size = size
        self._lock = Lock()
        self._known: OrderedDict[Hashable, Future[Value]] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """The value of the key, by `compute()` where it is not known. Errors are not kept."""
        with self._lock:
            entry = self._known.get(key)
            missing = entry is None
            if entry is None:
                entry = self._known[key] = Future()
                if len(self._known) > self._size:
                    self._known.popitem(last=False)
            else:
                self._known.move_to_end(key)
        if missing:
            try:
                entry.set_result(compute())
            except BaseException as problem:
                entry.set_exception(problem)
                with self._lock:
                    if self._known.get(key) is entry:
                        del self._known[key]
                raise
        return entry.result()

    def __len__(self) -> int:
        return len(self._known)
