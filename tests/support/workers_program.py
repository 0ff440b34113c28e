"""One of several workers, which exchanges values and bytes and prints what it gets as one line of JSON.

    python workers_program.py fails | vanishes

In the end worker:1 raises an error or is killed, and the others wait for it.
"""

import hashlib
import json
import os
import signal
import sys

import numpy as np

from refinedet_tf.commands.terminal import import_tensorflow
from refinedet_tf.errors import InputError, TrainingStopped
from refinedet_tf.training.cluster import read_cluster


def main(ending):
    import_tensorflow()
    from refinedet_tf.training.workers import Workers

    found = {}
    try:
        with Workers(read_cluster(), 60.0) as workers:
            found["values"] = [workers.exchange({"sent by": workers.index, "n": n}) for n in range(3)]
            # Those of worker:2 are none, and no length is a multiple of another.
            data = np.random.default_rng(workers.index).bytes((5, 2**22 + 7, 0)[workers.index])
            found["own"], found["lengths"] = digest(data), [len(there) for there in workers.gather(data)]
            found["bytes"] = [digest(there) for there in workers.gather(data)]
            if workers.index == 1:
                if ending == "vanishes":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise InputError("image caf\udce9.jpg is broken")
            workers.exchange(None)
    except (InputError, TrainingStopped) as error:
        found["error"] = [type(error).__name__, str(error)]
    print(json.dumps(found))


def digest(data):
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    main(sys.argv[1])
