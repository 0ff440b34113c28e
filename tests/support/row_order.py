"""The order of detections whose scores went through a network: its rounding decides between close ones."""

import numpy as np


def undo_exchanges(found, expected, labels, tolerances):
    """Which found row stands for each expected one, where close scores may have changed places.

    Which of two scores is the larger is up to the processor's kernels if they lie closer together than the
    rounding of the network. A run is rows of one class, each of whose expected scores lies closer to the
    next one than the tolerance: in it every expected row, one after the other, gets the nearest of the
    found rows that are left. All other rows stay where they are. Nothing is asserted here: a row moves as
    a whole, and its score and box are compared where it then stands.

    Args:
        found, expected: [N, 5], score and box of each row; class by class, the expected scores of a class in
            descending order.
        labels: [N], the class of each row, the same for both.
        tolerances: [5], of the score and the four coordinates; "nearest" is in their units.

    Returns:
        int [N], each of 0..N-1 once: `found[rows]` stands as `expected` does.
    """
    rows = np.arange(len(labels))
    close = (np.diff(labels) == 0) & (np.abs(np.diff(expected[:, 0])) < tolerances[0])
    for run in np.split(rows.copy(), np.flatnonzero(~close) + 1):
        left = list(run)
        for row in run:
            distances = np.abs((found[left] - expected[row]) / tolerances).max(axis=1)
            rows[row] = left.pop(int(distances.argmin()))
    return rows
