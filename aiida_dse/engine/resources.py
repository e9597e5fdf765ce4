"""Resources: threads and memory of a calculation, and the distribution of work over threads.

The engine does not read the environment: the outermost command makes one `Resources` and passes
it down. Resources affect the speed of a calculation, but neither the inputs that are accepted nor
a single bit of the result: the division of work into pieces does not depend on the number of
threads, and the results are combined in the order of the pieces.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from threading import local
from typing import TypeVar

StopCheck = Callable[[], str | None]
Item = TypeVar("Item")
Found = TypeVar("Found")

#: Memory (bytes) that is assumed where none is specified.
DEFAULT_MEMORY = 4e9


@dataclass(frozen=True)
class Resources:
    """The number of threads, and the memory (bytes) for the work arrays of all of them together."""

    threads: int = 1
    memory: float = DEFAULT_MEMORY

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"the number of threads is {self.threads}; it must be at least 1.")
        if not self.memory > 0:
            raise ValueError(f"the memory is {self.memory:g} bytes; it must be above 0.")

    @classmethod
    def from_environment(
        cls, threads: int | None = None, environment: Mapping[str, str] | None = None
    ) -> Resources:
        """The resources of this process; for the outermost command only.

        The number of threads is the requested one, else DSE_NUM_THREADS, else OMP_NUM_THREADS, else
        the number of cores on which this process may run. The memory is DSE_MEMORY in GB, else half
        of the computer's memory. Raises ValueError where DSE_MEMORY is not a number.
        """
        variables = os.environ if environment is None else environment
        if threads is None:
            limits = [variables.get(name, "") for name in ("DSE_NUM_THREADS", "OMP_NUM_THREADS")]
            threads = next((int(n) for n in limits if n.isdigit() and int(n) > 0), _cores())
        try:
            memory = float(variables["DSE_MEMORY"]) * 1e9
        except KeyError:
            memory = _physical_memory() / 2
        except ValueError:
            raise ValueError(
                f"DSE_MEMORY is '{variables['DSE_MEMORY']}'; it must be a number of GB, such as 8."
            ) from None
        return cls(threads, memory)

    def share(self, n: int) -> Resources:
        """The resources of each of `n` workers that run at the same time."""
        n = max(1, n)
        return Resources(max(1, self.threads // n), self.memory / n)

    def workers(self, n_items: int, bytes_each: float = 0.0) -> int:
        """How many of `n_items` run at the same time if each needs `bytes_each`; at least one."""
        fitting = self.memory // bytes_each if bytes_each > 0 else n_items
        return int(max(1, min(self.threads, n_items, fitting)))

    def ordered(
        self, work: Callable[[Item], Found], items: Sequence[Item], *, bytes_each: float = 0.0
    ) -> Iterator[Found]:
        """Yield `work(item)` of all items in their order, on as many threads as memory allows.

        At most as many results as there are workers are held at a time, so memory is bounded.
        """
        workers = self.workers(len(items), bytes_each)
        if workers == 1:
            yield from map(work, items)
            return
        pool, waiting = _pool(workers), deque[Future[Found]]()
        try:
            for item in items:
                if len(waiting) == workers:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(work, item))
            while waiting:
                yield waiting.popleft().result()
        finally:  # after an error, or if the caller needs no more
            for one in waiting:
                one.cancel()
            wait(waiting)


#: The pools of each thread by their number of threads; a new pool for every call would cost as much as a small one.
_pools = local()


def _pool(workers: int) -> ThreadPoolExecutor:
    """The pool of the calling thread; work of a pool that requires a pool itself has others."""
    known: dict[int, ThreadPoolExecutor] = _pools.__dict__.setdefault("known", {})
    if workers not in known:
        known[workers] = ThreadPoolExecutor(workers)
    return known[workers]


#: The default resources: one thread.
ONE_THREAD = Resources()


def spread(
    work: Callable[[Item, StopCheck], Found],
    items: Sequence[Item],
    *,
    on_done: Callable[[Item, Found], None],
    should_stop: StopCheck | None = None,
    resources: Resources,
) -> str:
    """Run `work(item, stopping)` for all items on the threads of `resources`.

    Returns 'complete', 'interrupted' or the reason that `should_stop` returned. `on_done` receives
    each result, in the calling thread. `stopping` returns a reason once the work is to end: long
    work should call it regularly and return what it has.
    """
    if not items:
        return "complete"
    reason: list[str] = []

    def stopping() -> str | None:
        if not reason and should_stop and (why := should_stop()):
            reason.append(why)
        return reason[0] if reason else None

    pool = ThreadPoolExecutor(resources.workers(len(items)))
    waiting: dict[Future[Found], Item] = {}
    try:
        waiting |= {pool.submit(work, item, stopping): item for item in items}
        for future in as_completed(list(waiting)):
            on_done(waiting.pop(future), future.result())
            if stopping():
                break
    except KeyboardInterrupt:
        reason.append("interrupted")
    except BaseException:
        reason.append("failed")
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    # results of the work that was in progress when the calculation was stopped are kept as well
    for future, item in waiting.items():
        if not future.cancelled():
            on_done(item, future.result())
    return reason[0] if reason else "complete"


def _cores() -> int:
    """The number of cores on which this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _physical_memory() -> float:
    """Memory of this computer in bytes; twice DEFAULT_MEMORY if the system does not report it."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return 2 * DEFAULT_MEMORY
