"""A small thread-safe cache of computed values."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Memo(Generic[Value]):
    """The `size` most recently used values, by key.

    A thread that requests a value which another thread is computing waits for it.
    """

    def __init__(self, size: int = 1) -> None:
        self._size = size
        self._lock = Lock()
        self._entries: OrderedDict[Hashable, Future[Value]] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """The value of `key`: the cached one, or that of `compute()`. Errors are not cached."""
        with self._lock:
            entry = self._entries.get(key)
            missing = entry is None
            if entry is None:
                entry = self._entries[key] = Future()
                if len(self._entries) > self._size:
                    self._entries.popitem(last=False)
            else:
                self._entries.move_to_end(key)
        if missing:
            try:
                entry.set_result(compute())
            except BaseException as problem:
                entry.set_exception(problem)
                with self._lock:
                    if self._entries.get(key) is entry:
                        del self._entries[key]
                raise
        return entry.result()

    def __len__(self) -> int:
        return len(self._entries)
