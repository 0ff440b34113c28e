"""Work on many items in threads, in their order and with few of them in memory."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int
) -> Iterator[Result]:
    """Yields the result of a function for each item, in the order of the items.

    `Executor.map` would start all items at once and hold as many objects as there are items.

    Args:
        function: is called in several threads at once.
        items: are read as the work goes on.
        threads: the number of threads.
        ahead: the number of items that are begun before the one whose turn it is.
    """
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        waiting: collections.deque[concurrent.futures.Future[Result]] = collections.deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        yield from (future.result() for future in waiting)
