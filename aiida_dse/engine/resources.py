"""How many threads the engine may use, and independent pieces of work spread over them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TypeVar

StopCheck = Callable[[], str | None]
Item = TypeVar("Item")
Found = TypeVar("Found")


def thread_count() -> int:
    """DSE_NUM_THREADS, else OMP_NUM_THREADS, else the cores this process may run on."""
    for name in ("DSE_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > 0:
            return int(value)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(
    work: Callable[[Item, StopCheck], Found],
    items: Sequence[Item],
    *,
    on_done: Callable[[Item, Found], None],
    should_stop: StopCheck | None = None,
    threads: int | None = None,
) -> str:
    """Do `work(item, stopping)` for all items; 'complete', 'interrupted' or why it was stopped.

    `on_done` receives what was found, in the calling thread. `stopping` returns a reason once the
    work is to end: long work should ask it and return what it has.
    """
    reason: list[str] = []

    def stopping() -> str | None:
        if not reason and should_stop and (why := should_stop()):
            reason.append(why)
        return reason[0] if reason else None

    pool = ThreadPoolExecutor(max(1, min(threads or thread_count(), len(items))))
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
    # what was under way when the stop came is kept as well
    for future, item in waiting.items():
        if not future.cancelled():
            on_done(item, future.result())
    return reason[0] if reason else "complete"
