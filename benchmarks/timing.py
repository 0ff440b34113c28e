"""How long calls take: measured in turns after a warm-up, so that a disturbance meets all of them alike."""

import time
from collections.abc import Callable, Mapping

import numpy as np

WARM_UP_ROUNDS = 2
"""The first round traces the graphs, the second fills caches."""


PAUSE = 0.02
"""The seconds in which the threads of a runtime go to sleep after a call, which they await for a while."""


def measure_in_turns(
    calls: Mapping[str, Callable[[], object]],
    runs: int,
    warm_up_rounds: int = WARM_UP_ROUNDS,
    settle: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Times several calls, one after the other in each round.

    What a call returns is read back into main memory within its time, because TensorFlow and JAX return
    before the device has finished.

    Args:
        calls: a name for each function; a function returns a tensor, an array, or any nest of them.
        runs: rounds that count, at least 1.
        warm_up_rounds: rounds before them that do not count.
        settle: whether a pause and another call, which does not count, precede each measured call: for calls
            in several runtimes, whose threads and caches would disturb each other.
        clock: returns seconds.

    Returns:
        For each name the milliseconds of its runs, float64 [runs].
    """
    import keras

    milliseconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(warm_up_rounds + runs):
        for name, call in calls.items():
            if settle:
                time.sleep(PAUSE)
                keras.tree.map_structure(np.asarray, call())
            start = clock()
            keras.tree.map_structure(np.asarray, call())
            milliseconds[name].append(1e3 * (clock() - start))
    return {name: np.array(values[warm_up_rounds:]) for name, values in milliseconds.items()}


def spread(milliseconds: np.ndarray) -> dict[str, float]:
    """The median, the 10th and the 90th percentile of some times, rounded to hundredths."""
    p10, median, p90 = np.percentile(milliseconds, (10, 50, 90)).tolist()
    return {"median": round(median, 2), "p10": round(p10, 2), "p90": round(p90, 2)}
