"""Trains on several machines as one job of Apache Spark, which starts, watches and restarts all workers.

    python examples/spark_training.py --workers 2 -- --config voc320.json --output /shared/run
    spark-submit --master spark://host:7077 examples/spark_training.py --workers 2 -- --config ...

What follows "--" are the options of `refinedet train`, to which the strategy and --resume are added. Spark
starts all workers together (its barrier mode). When one of them dies, it starts all of them again, and they
go on from the newest checkpoint. A mistake in the input, exit code 2, is not tried again.
"""

import argparse
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence

WRONG_INPUT = 2
"""The exit code of `refinedet train` that another attempt would not change."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and trains; returns the exit code."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s [options] -- OPTIONS",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="the number of workers")
    parser.add_argument("--attempts", type=int, default=4, metavar="N", help="how often all are started")
    parser.add_argument("train", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    command = [sys.executable, "-m", "refinedet_tf", "train", *options.train, "--resume"]
    command += ["--set", 'training.strategy="multi_worker"']
    return run_on_spark(command, options.workers, options.attempts)


def run_on_spark(command: Sequence[str], workers: int, attempts: int) -> int:
    """Runs a command in each of several tasks, which know each other by TF_CONFIG.

    Args:
        command: the command and its arguments, which continue what an earlier attempt has done.
        workers: the number of tasks.
        attempts: how often Spark starts all of them before it gives up.

    Returns:
        0 if all ended well; `WRONG_INPUT` if one did; 1 if Spark has given up.
    """
    from py4j.protocol import Py4JError
    from pyspark import SparkConf, SparkContext

    settings = SparkConf().setAppName("refinedet train")
    settings.set("spark.task.maxFailures", str(attempts)).set(
        "spark.stage.maxConsecutiveAttempts", str(attempts)
    )
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # This is not spark-submit.
        settings.setMaster(f"local[{workers},{attempts}]")
        settings.set("spark.driver.host", "127.0.0.1").set("spark.driver.bindAddress", "127.0.0.1")
        settings.set("spark.ui.enabled", "false")
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    context = SparkContext(conf=settings)
    context.setLogLevel("ERROR")
    try:
        context.addPyFile(os.path.abspath(__file__))  # noqa: PTH100
        tasks = context.parallelize(range(workers), workers).barrier()
        # Spark starts a stage of barrier tasks again only where another stage takes its results.
        codes = tasks.mapPartitions(lambda _: _work(command)).repartition(1).collect()
    except Py4JError as error:
        lines = str(error).splitlines()
        reason = next((line for line in reversed(lines) if line.startswith("RuntimeError")), lines[0])
        print(f"error: Spark has given up: {reason}", file=sys.stderr)
        return 1
    finally:
        context.stop()
    return max(codes)


def _work(command: Sequence[str]) -> Iterator[int]:
    """Runs in each task: starts one worker, and yields its exit code when all have ended.

    Raises:
        RuntimeError: a worker has ended in another way than well or with a mistake in the input; it is raised
            in all tasks, and Spark starts all of them again.
    """
    from pyspark import BarrierTaskContext

    task = BarrierTaskContext.get()
    host = task.getTaskInfos()[task.partitionId()].address.partition(":")[0]
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    addresses = task.allGather(f"{host}:{port}")
    cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": task.partitionId()}}
    worker = subprocess.Popen(
        command,
        env={**os.environ, "TF_CONFIG": json.dumps(cluster)},
        stdout=2,  # That of the task; a task on another machine writes it to its log.
        preexec_fn=_end_with_parent,
    )
    try:
        codes = [int(code) for code in task.allGather(str(worker.wait()))]
    finally:
        worker.kill()
    if any(codes) and WRONG_INPUT not in codes:
        raise RuntimeError(f"the workers have ended with the exit codes {codes}")
    yield WRONG_INPUT if WRONG_INPUT in codes else 0


def _end_with_parent() -> None:
    """Has Linux kill this process when its parent ends, as it does when Spark cancels the task.

    A worker may be killed at any time, because it writes files under another name and renames them.
    """
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
