"""Detects on any number of images with an exported model, in the processes of Apache Spark."""

import argparse
import collections
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from batch_files import (
    COCO_RESULT,
    RESULT,
    BatchJobError,
    BatchJobStopped,
    CocoIds,
    JobFolder,
    Plan,
    hash_of_model,
    read_class_names,
)
from batch_images import describe, find_images

ATTEMPTS = 4
"""How often Spark tries a shard on this machine before it gives up; the same as its default on a cluster."""

NAMED_IMAGES = 20
"""The number of images without detections that are named on the terminal; all are in the results."""

Shard = tuple[int, list[str]]
"""The number of a shard and its images."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, runs the job and writes the results."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="The output folder holds detections.jsonl with one line for every image. A job that was "
        "stopped goes on if the same command is started again: shards that are complete are kept.",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders or quoted patterns")
    parser.add_argument(
        "--model", required=True, metavar="FOLDER", help="an exported version, such as exports/voc320/1"
    )
    parser.add_argument(
        "--output", required=True, metavar="FOLDER", help="a new folder, or that of the same job"
    )
    parser.add_argument(
        "--coco",
        metavar="FILE",
        help=f"COCO annotations with the ids of the images and classes: also write {COCO_RESULT}",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=2,
        metavar="N",
        help="processes on this machine; not used with --master or spark-submit (default: %(default)s)",
    )
    parser.add_argument("--master", metavar="URL", help="the Spark cluster, such as spark://host:7077")
    parser.add_argument(
        "--batch",
        type=int,
        default=8,
        metavar="N",
        help="images per call of the model (default: %(default)s)",
    )
    parser.add_argument(
        "--shard",
        type=int,
        default=128,
        metavar="N",
        help="images per task, which is what is computed again if a process dies (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    for name in ("processes", "batch", "shard"):
        if getattr(options, name) < 1:
            raise BatchJobError(f"--{name} must be at least 1, got {getattr(options, name)}")
    run_job(options)


def run_job(options: argparse.Namespace) -> None:
    """Runs the job of a command line.

    Raises:
        BatchJobError: the input is wrong.
        BatchJobStopped: Spark has given up.
    """
    start = time.monotonic()
    model = os.path.abspath(options.model)  # noqa: PTH100
    class_names = read_class_names(model)
    images, left_out = find_images(options.images)
    if left_out:
        print(f"note: {describe(left_out)}", file=sys.stderr)
    coco_ids = CocoIds(options.coco, images, class_names) if options.coco else None
    plan = Plan(hash_of_model(model), options.shard, images)
    job = JobFolder(os.path.abspath(options.output))  # noqa: PTH100
    if job.start(plan):
        print(f"the job is finished already: {job.folder / RESULT}")
    else:
        _compute(options, model, plan, job)
        _report(job, len(images), time.monotonic() - start)
    if coco_ids is not None:
        job.write_coco(coco_ids)


def _compute(options: argparse.Namespace, model: str, plan: Plan, job: JobFolder) -> None:
    """Computes the shards that are missing and joins all of them."""
    missing = job.missing_shards(plan)
    kept = plan.num_shards - len(missing)
    if kept:
        print(f"going on: {kept} of {plan.num_shards} shards are complete")
    if missing:
        shards = [(shard, plan.images_of(shard)) for shard in missing]
        master = options.master or _local_master(options.processes)
        for process, count in run_on_spark(shards, model, str(job.folder), options.batch, master).items():
            print(f"process {process}: {count} images")
    job.finish(plan)


def run_on_spark(
    shards: Sequence[Shard], model: str, output: str, batch_size: int, master: str | None
) -> dict[str, int]:
    """Has Spark answer shards, one task for each.

    Args:
        shards: the shards that have to be computed.
        model: the folder of the exported version, absolute.
        output: the folder of the job, absolute.
        batch_size: the number of images per call of the model.
        master: the address of the cluster; None: that of spark-submit.

    Returns:
        The number of images that each process has answered, by "host:process id".

    Raises:
        BatchJobError: Spark cannot be imported or started.
        BatchJobStopped: a task has failed in all its attempts.
    """
    try:
        from py4j.protocol import Py4JError
        from pyspark import SparkConf, SparkContext
        from pyspark.errors import PySparkException
    except ImportError:
        raise BatchJobError("Spark is not installed: pip install -r serving/requirements-batch.txt") from None
    settings = (
        SparkConf().setAppName("refinedet").set("spark.ui.showConsoleProgress", str(sys.stderr.isatty()))
    )
    if master is not None:
        settings.setMaster(master)
    if settings.get("spark.master", "").startswith("local["):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        # Nothing of a job on one machine can be reached from another.
        for name, value in (
            ("driver.host", "127.0.0.1"),
            ("driver.bindAddress", "127.0.0.1"),
            ("ui.enabled", "false"),
        ):
            settings.set(f"spark.{name}", value)
    try:
        context = SparkContext(conf=settings)
    except (PySparkException, Py4JError, OSError, RuntimeError) as error:
        raise BatchJobError(f"Spark does not start (it needs Java 17 or later): {_reason(error)}") from None
    try:
        folder = Path(__file__).resolve().parent
        modules = ("batch_files.py", "batch_images.py", "upright.py", "batch_detector.py", "batch_job.py")
        for module in modules:
            context.addPyFile(str(folder / module))
        threads = int(context.getConf().get("spark.task.cpus", "1"))
        tasks = context.parallelize(shards, len(shards))
        tallies = tasks.mapPartitions(
            lambda part: answer_shards(part, model, output, batch_size, threads)
        ).collect()
    except Py4JError as error:
        raise BatchJobStopped(
            f"Spark has given up, and complete shards are kept; start the same command again to go on: "
            f"{_reason(error)}"
        ) from None
    finally:
        context.stop()
    counts: collections.Counter[str] = collections.Counter()
    for process, count in tallies:
        counts[process] += count
    return dict(sorted(counts.items()))


def answer_shards(
    shards: Iterable[Shard], model: str, output: str, batch_size: int, threads: int | None
) -> Iterator[tuple[str, int]]:
    """Runs in the processes of Spark: answers shards and writes their files.

    Args:
        shards: the shards of a task.
        model: the folder of the exported version.
        output: the folder of the job.
        batch_size: the number of images per call of the model.
        threads: the number of cores that Spark gives to a task; None: as TensorFlow decides.

    Yields:
        ("host:process id", number of images) for each shard.
    """
    from batch_detector import load_detector

    detector, job = load_detector(model, threads), JobFolder(output)
    for shard, images in shards:
        job.write_shard(shard, detector.answer(images, batch_size))
        yield f"{os.uname().nodename}:{os.getpid()}", len(images)


def _local_master(processes: int) -> str | None:
    """Returns the address for processes on this machine; None if spark-submit has chosen another one."""
    return None if "PYSPARK_GATEWAY_PORT" in os.environ else f"local[{processes},{ATTEMPTS}]"


def _report(job: JobFolder, num_images: int, seconds: float) -> None:
    """Prints how many images and detections there are, and names the images that have none for an error."""
    num_detections = num_errors = 0
    for answer in job.answers():
        num_detections += len(answer.get("detections", ()))
        if "error" in answer:
            num_errors += 1
            if num_errors <= NAMED_IMAGES:
                print(f"image {answer['image']} {answer['error']}", file=sys.stderr)
    if num_errors > NAMED_IMAGES:
        print(f"and {num_errors - NAMED_IMAGES} more", file=sys.stderr)
    print(
        f"{num_images} images, {num_errors} of them without result, {num_detections} detections, "
        f"{seconds:.0f} s: {job.folder / RESULT}"
    )


def _reason(error: Exception) -> str:
    """Returns the first line of an error, and the line of the Python error that it quotes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    quoted = [line for line in lines if re.match(r"[\w.]*(Error|Exception): ", line)]
    return " ".join(dict.fromkeys([*lines[:2], *quoted[-1:]]))


if __name__ == "__main__":
    try:
        main()
    except BatchJobError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(f"error: {error.filename or 'the output'}: {error.strerror}", file=sys.stderr)
        sys.exit(1)
