"""The files of a batch job: its plan, the shards of answers, and the results."""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

Answer = dict[str, Any]
"""The answer to one image, an object of JSON: {"image", "height", "width", "detections"} as in detect.py's
detections.json, where a detection is {"class", "score", "box": {"xmin", "ymin", "xmax", "ymax"}} with the box
in pixels of the image; or {"image", "error"} for a file that cannot be read or decoded."""

RESULT = "detections.jsonl"
COCO_RESULT = "coco_results.json"

ASIDE = re.compile(r"\.[0-9a-f]{32}-.*")
"""The name of a file while `written_whole` writes it."""


class BatchJobError(Exception):
    """An input is wrong; the message is one line for the user, and the command ends with `exit_code`."""

    exit_code = 2


class BatchJobStopped(BatchJobError):
    """The job cannot go on; what is complete is kept."""

    exit_code = 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a job does. A job that is started again goes on only if its plan is the same.

    Attributes:
        model_hash: the hash of all files of the model that determine answers (`hash_of_model`).
        shard_size: the number of images per shard; the last shard may have fewer.
        images: the absolute paths of the image files, each of them once.
    """

    model_hash: str
    shard_size: int
    images: list[str]

    @property
    def num_shards(self) -> int:
        """The number of shards, each of which is one task of the engine."""
        return -(-len(self.images) // self.shard_size)

    def images_of(self, shard: int) -> list[str]:
        """Returns the images of a shard, 0..num_shards - 1, in the order of `images`."""
        return self.images[shard * self.shard_size : (shard + 1) * self.shard_size]


class JobFolder:
    """The output folder of a job, which all machines see under the same path.

    ```
    plan.json          the `Plan`
    shards/00000.jsonl one answer per line; deleted when the job is finished
    detections.jsonl   one answer per line, in the order of the plan; its existence ends the job
    coco_results.json  the detections in COCO's format, if that is wanted
    ```
    """

    def __init__(self, folder: str) -> None:
        """Notes the path; `start` makes the folder."""
        self.folder = Path(folder)
        self.shards = self.folder / "shards"

    def start(self, plan: Plan) -> bool:
        """Begins a job, or goes on with the same one.

        Returns:
            Whether the job is finished already.

        Raises:
            BatchJobError: the folder holds another job or something else.
        """
        file = self.folder / "plan.json"
        text = json.dumps(dataclasses.asdict(plan))
        self.folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            if any(path.name[0] != "." for path in self.folder.iterdir()):
                raise BatchJobError(
                    f"--output {self.folder} is not empty and holds no job: name a new folder"
                )
            with written_whole(file) as stream:
                stream.write(text)
        elif file.read_text(encoding="ascii") != text:
            raise BatchJobError(
                f"--output {self.folder} holds a job with another model, other images or another --shard: "
                "name a new folder"
            )
        if (self.folder / RESULT).exists():
            # A job that was killed after its result was written had no time for this.
            self._remove_leftovers()
            return True
        self.shards.mkdir(exist_ok=True)
        return False

    def missing_shards(self, plan: Plan) -> list[int]:
        """Returns the shards that have to be computed. A damaged file of a shard counts as missing."""
        return [shard for shard in range(plan.num_shards) if self._read_shard(plan, shard) is None]

    def write_shard(self, shard: int, answers: Iterable[Answer]) -> None:
        """Writes the answers of a shard; its file appears whole or not at all.

        An engine may run a task again, and even twice at once: the second file then replaces the first,
        which holds the same answers.
        """
        with written_whole(self._shard_file(shard)) as stream:
            # Escapes keep the bytes of a path that is not UTF-8.
            stream.writelines(f"{json.dumps(answer)}\n" for answer in answers)

    def finish(self, plan: Plan) -> None:
        """Joins the shards to the result, and deletes them.

        Raises:
            BatchJobStopped: a shard is missing, or does not hold exactly one answer to each of its images.
        """
        with written_whole(self.folder / RESULT) as stream:
            for shard in range(plan.num_shards):
                answers = self._read_shard(plan, shard)
                if answers is None:
                    file = self._shard_file(shard)
                    raise BatchJobStopped(f"{file} is missing or damaged: start the job again")
                stream.writelines(f"{json.dumps(answer)}\n" for answer in answers)
        self._remove_leftovers()

    def write_coco(self, coco_ids: "CocoIds") -> None:
        """Writes the detections of a finished job in COCO's format of results."""
        with written_whole(self.folder / COCO_RESULT) as stream:
            separator = "[\n"
            for answer in self.answers():
                for row in coco_ids.rows(answer):
                    stream.write(separator + json.dumps(row))
                    separator = ",\n"
            stream.write("\n]\n" if separator == ",\n" else "[]\n")

    def answers(self) -> Iterator[Answer]:
        """Reads the answers of a finished job."""
        with (self.folder / RESULT).open(encoding="ascii") as stream:
            yield from map(json.loads, stream)

    def _remove_leftovers(self) -> None:
        """Removes what a finished job no longer needs: the shards, and files that a killed job began."""
        if self.shards.exists():
            shutil.rmtree(self.shards)
        for file in self.folder.iterdir():
            if ASIDE.fullmatch(file.name):
                file.unlink(missing_ok=True)

    def _shard_file(self, shard: int) -> Path:
        return self.shards / f"{shard:05d}.jsonl"

    def _read_shard(self, plan: Plan, shard: int) -> list[Answer] | None:
        """Returns the answers of a shard; None if they are not exactly one per image in the plan's order."""
        try:
            text = self._shard_file(shard).read_text(encoding="ascii")
            answers = [json.loads(line) for line in text.splitlines()]
            images = [answer["image"] for answer in answers]
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return answers if images == plan.images_of(shard) else None


class CocoIds:
    """The ids that COCO's format of results needs, from a file of annotations."""

    def __init__(self, file: str, images: Sequence[str], class_names: Sequence[str]) -> None:
        """Looks up all images and classes.

        Args:
            file: COCO JSON with "images" (each "file_name" is the end of an image's path) and
                "categories".
            images: the paths of the images of the job.
            class_names: the names of the model's classes.

        Raises:
            BatchJobError: the file cannot be read, or an image or class has no id in it.
        """
        try:
            tree = json.loads(Path(file).read_text(encoding="utf-8"))
            image_ids = {entry["file_name"]: entry["id"] for entry in tree["images"]}
            category_ids = {entry["name"]: entry["id"] for entry in tree["categories"]}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise BatchJobError(
                f"--coco {file} cannot be read as COCO annotations: {type(error).__name__} {error}"
            ) from None
        self._image_ids = {image: _id_of(image, image_ids, file) for image in images}
        if len(set(self._image_ids.values())) != len(images):
            raise BatchJobError(f"--coco {file}: two images of the job have the same id")
        for name in class_names:
            if name not in category_ids:
                raise BatchJobError(f'--coco {file}: class "{name}" of the model is no category')
        self._category_ids = category_ids

    def rows(self, answer: Answer) -> Iterator[dict[str, Any]]:
        """Yields the detections of an image as COCO's results, boxes [x, y, width, height] in pixels."""
        for detection in answer.get("detections", ()):
            box = detection["box"]
            sides = (box["xmax"] - box["xmin"], box["ymax"] - box["ymin"])
            yield {
                "image_id": self._image_ids[answer["image"]],
                "category_id": self._category_ids[detection["class"]],
                "bbox": [box["xmin"], box["ymin"], *(round(side, 2) for side in sides)],
                "score": detection["score"],
            }


def _id_of(image: str, image_ids: dict[str, int], file: str) -> int:
    """Returns the id of the image whose "file_name" is the end of a path."""
    parts = Path(image).parts
    for first in reversed(range(len(parts))):
        name = "/".join(parts[first:])
        if name in image_ids:
            return image_ids[name]
    raise BatchJobError(f"--coco {file} has no image with the file_name of {image}")


@contextlib.contextmanager
def written_whole(file: Path) -> Iterator[TextIO]:
    """Opens a file under another name, and gives it its own name when the block has ended without error.

    The other name is new for each attempt, so that two attempts at once do not disturb each other.
    """
    aside = file.with_name(f".{uuid.uuid4().hex}-{file.name}")
    try:
        with aside.open("w", encoding="ascii", newline="\n") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def hash_of_model(model: str) -> str:
    """Returns the SHA-256 of what determines a model's answers: its graph, weights, names and description."""
    folder, digest = Path(model), hashlib.sha256()
    files = [folder / "saved_model.pb"]
    for part in ("variables", "assets"):
        files += sorted(file for file in (folder / part).rglob("*") if file.is_file())
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def read_class_names(model: str) -> list[str]:
    """Returns the names in assets/labels.txt of a model, label 1 first.

    Raises:
        BatchJobError: the folder is none that `export_savedmodel.py` has written.
    """
    folder = Path(model)
    for name in ("saved_model.pb", "assets/labels.txt", "assets/model.json"):
        if not (folder / name).is_file():
            raise BatchJobError(
                f"--model {model} has no {name}: name the folder of a version, such as exports/voc320/1"
            )
    return (folder / "assets" / "labels.txt").read_text(encoding="utf-8").splitlines()
