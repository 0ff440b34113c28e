"""The batch job: its detector and its files everywhere, the engine where pyspark and Java are installed."""

import collections
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import batch_job
import pytest
from batch_detector import FileDetector, image_size
from batch_files import BatchJobError, CocoIds, JobFolder, Plan, hash_of_model
from batch_images import describe, find_images
from detection_entries import assert_same_entries
from image_files import save
from PIL import Image
from processes import output_without
from small_detector import assert_same_detections

import detect
from refinedet_tf.commands import detect as detect_command

SERVING = Path(__file__).parent.parent.parent / "serving"


@pytest.fixture(scope="module")
def file_detector(model_folder):
    return FileDetector(str(model_folder))


@pytest.fixture
def files(images):
    """The three images, then files without pixels: cut, empty, text, a folder and one that does not exist."""
    folder = images[0].parent
    (folder / "cut.jpg").write_bytes(images[0].read_bytes()[:300])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.gif").write_text("no image")
    (folder / "folder.jpg").mkdir()
    broken = [folder / name for name in ("cut.jpg", "empty.png", "text.gif", "folder.jpg", "none.jpg")]
    return [*images, *broken]


@pytest.fixture
def without_engine(monkeypatch):
    """Answers shards in this process instead of Spark, and returns the numbers of the shards it was given."""
    given = []

    def run(shards, model, output, batch_size, master):
        given.extend(shard for shard, _ in shards)
        counts = collections.Counter()
        for process, count in batch_job.answer_shards(shards, model, output, batch_size, None):
            counts[process] += count
        return counts

    monkeypatch.setattr(batch_job, "run_on_spark", run)
    return given


def run(*arguments):
    batch_job.main([str(argument) for argument in arguments])


def read_answers(output):
    lines = (output / "detections.jsonl").read_text(encoding="ascii").splitlines()
    return [json.loads(line) for line in lines]


def plan_of(*images, shard_size=2):
    return Plan("hash", shard_size, list(images))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_file_has_one_answer(file_detector, files, batch_size):
    shuffled = [str(files[i]) for i in (3, 0, 7, 1, 4, 6, 2, 5)]
    answers = file_detector.answer(shuffled, batch_size)
    assert [answer["image"] for answer in answers] == shuffled
    by_name = {Path(answer["image"]).name: answer for answer in answers}
    for name in ("cut.jpg", "empty.png", "text.gif"):
        assert by_name[name].keys() == {"image", "error"}
        assert by_name[name]["error"].startswith("cannot be decoded")
    assert by_name["folder.jpg"]["error"] == "cannot be read: Is a directory"
    assert by_name["none.jpg"]["error"] == "cannot be read: No such file or directory"
    assert all(by_name[path.name]["detections"] for path in files[:3])


def test_arrays_are_those_of_the_network(file_detector, exported, images):
    outputs = file_detector.detect([path.read_bytes() for path in images])
    assert_same_detections(outputs, exported.detector(images), tolerance=1e-6)


def test_answers_are_the_entries_of_detect(
    without_engine, model_folder, exported, files, monkeypatch, tmp_path
):
    monkeypatch.setattr(detect_command, "config_from", lambda _: exported.config)
    monkeypatch.setattr(detect_command, "load_model", lambda *_, **__: exported.model)
    folder = files[0].parent
    run(folder, files[0], "--model", model_folder, "--output", tmp_path / "job", "--shard", 2)
    with pytest.raises(ValueError, match="3 of 6 images left out"):
        detect.main([str(folder), "--config", "any", "--output", str(tmp_path / "local")])
    expected = json.loads((tmp_path / "local" / "detections.json").read_text(encoding="utf-8"))
    answers = read_answers(tmp_path / "job")
    assert [Path(answer["image"]).name for answer in answers] == sorted(
        path.name for path in files if path.is_file()
    )
    decoded = [answer for answer in answers if "error" not in answer]
    assert len(decoded) == len(expected) == 3
    assert all(list(answer) == ["image", "height", "width", "detections"] for answer in decoded)
    # Both are rounded, to 6 and to 2 decimals.
    assert_same_entries(decoded, expected, score=1.5e-6, box=0.0101)


def test_a_stopped_job_goes_on(without_engine, model_folder, files, tmp_path, capsys):
    """Complete shards are kept; a damaged one and one that was being written are computed again."""
    output = tmp_path / "job"
    last = save(tmp_path / "last.png")
    arguments = [*files[:6], last, "--model", model_folder, "--output", output, "--shard", 2]
    run(*arguments)
    undisturbed = (output / "detections.jsonl").read_bytes()
    assert without_engine == [0, 1, 2, 3]
    plan = Plan(**json.loads((output / "plan.json").read_text(encoding="ascii")))
    answers = read_answers(output)
    (output / "detections.jsonl").unlink()
    job = JobFolder(str(output))
    assert not job.start(plan)
    for shard in (0, 2, 3):
        job.write_shard(shard, answers[2 * shard : 2 * shard + 2])
    damaged = output / "shards" / "00002.jsonl"
    damaged.write_bytes(damaged.read_bytes()[:-10])
    (output / "shards" / ".0123-00001.jsonl").write_text("half a sha", encoding="ascii")
    without_engine.clear()
    capsys.readouterr()
    run(*arguments)
    assert without_engine == [1, 2]
    assert (output / "detections.jsonl").read_bytes() == undisturbed
    assert names_in(output) == ["detections.jsonl", "plan.json"]
    printed = capsys.readouterr()
    assert "going on: 2 of 4 shards are complete" in printed.out
    assert "7 images, 3 of them without result" in printed.out
    assert f"image {files[3]} cannot be decoded" in printed.err
    without_engine.clear()
    run(*arguments)
    assert without_engine == []
    assert "the job is finished already" in capsys.readouterr().out


def test_a_folder_with_another_job_is_refused(without_engine, model_folder, images, tmp_path):
    arguments = ["--model", model_folder, "--output", tmp_path / "job"]
    run(images[0], *arguments)
    for different in ([images[1], *arguments], [images[0], *arguments, "--shard", 7]):
        with pytest.raises(BatchJobError, match="holds a job with another model, other images or another"):
            run(*different)
    with pytest.raises(BatchJobError, match="is not empty and holds no job"):
        run(images[0], "--model", model_folder, "--output", images[0].parent)


def test_swapped_class_names_are_another_model(without_engine, model_folder, images, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(model_folder, model)
    arguments = [images[0], "--model", model, "--output", tmp_path / "job"]
    hashes = [hash_of_model(str(model))]
    run(*arguments)
    for name in ("labels.txt", "model.json"):
        file = model / "assets" / name
        file.write_text(file.read_text(encoding="utf-8").replace("circle", "square"), encoding="utf-8")
        hashes.append(hash_of_model(str(model)))
        with pytest.raises(BatchJobError, match="holds a job with another model"):
            run(*arguments)
    assert len(set(hashes)) == 3


@pytest.fixture
def job(tmp_path):
    """A job of two images in one shard that has begun."""
    job = JobFolder(str(tmp_path / "job"))
    assert not job.start(plan_of("/a", "/b"))
    return job


def answers_of(*images):
    return [{"image": image, "error": "x"} for image in images]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_leftovers_of_a_job_that_was_killed_at_its_end(job):
    job.write_shard(0, answers_of("/a", "/b"))
    (shard,) = job.shards.iterdir()
    kept = shard.read_bytes()
    for name in ("detections.jsonl", "plan.json"):
        (job.folder / f".{'0a' * 16}-{name}").write_text("half")
    (job.folder / ".mine").touch()
    job.finish(plan_of("/a", "/b"))
    assert names_in(job.folder) == [".mine", "detections.jsonl", "plan.json"]
    # The kill came between the renaming of the result and the removal of the shards.
    job.shards.mkdir()
    shard.write_bytes(kept)
    assert job.start(plan_of("/a", "/b"))
    assert names_in(job.folder) == [".mine", "detections.jsonl", "plan.json"]


def test_a_task_that_runs_twice_leaves_one_file(tmp_path):
    job, plan = JobFolder(str(tmp_path / "job")), plan_of("/a", "/b", "/c")
    assert not job.start(plan)
    for shard in (1, 0, 1):
        job.write_shard(shard, answers_of(*plan.images_of(shard)))
    assert names_in(job.shards) == ["00000.jsonl", "00001.jsonl"]
    job.finish(plan)
    assert [answer["image"] for answer in job.answers()] == ["/a", "/b", "/c"]


@pytest.mark.parametrize("images", [[], ["/a"], ["/a", "/a"], ["/b", "/a"], ["/a", "/b", "/b"], ["/a", "/c"]])
def test_a_shard_holds_exactly_one_answer_per_image(job, images):
    job.write_shard(0, answers_of(*images))
    assert job.missing_shards(plan_of("/a", "/b")) == [0]
    with pytest.raises(BatchJobError, match="is missing or damaged"):
        job.finish(plan_of("/a", "/b"))
    assert names_in(job.folder) == ["plan.json", "shards"]


def test_a_shard_that_fails_leaves_no_file(job):
    def answers():
        yield from answers_of("/a")
        raise MemoryError

    with pytest.raises(MemoryError):
        job.write_shard(0, answers())
    assert names_in(job.shards) == []


def test_coco_results(without_engine, model_folder, files, tmp_path):
    ids = {"in/a.jpg": 31, "b.png": 7, "c.bmp": 5, "cut.jpg": 9}
    categories = {"triangle": 30, "circle": 10, "square": 20, "unused": 1}
    annotations = tmp_path / "annotations.json"
    tree = {
        "images": [{"file_name": name, "id": number} for name, number in ids.items()],
        "categories": [{"name": name, "id": number} for name, number in categories.items()],
    }
    annotations.write_text(json.dumps(tree), encoding="utf-8")
    output = tmp_path / "job"
    run(*files[:4], "--model", model_folder, "--output", output, "--coco", annotations, "--shard", 3)
    rows = json.loads((output / "coco_results.json").read_text(encoding="utf-8"))
    expected = []
    for answer, image_id in zip(read_answers(output), ids.values(), strict=True):
        for detection in answer.get("detections", []):
            left, top, right, bottom = (detection["box"][side] for side in ("xmin", "ymin", "xmax", "ymax"))
            bbox = [left, top, pytest.approx(right - left), pytest.approx(bottom - top)]
            category = categories[detection["class"]]
            expected.append(
                {"image_id": image_id, "category_id": category, "bbox": bbox, "score": detection["score"]}
            )
    assert rows == expected
    assert {row["image_id"] for row in rows} == {31, 7, 5}
    (output / "coco_results.json").unlink()
    run(*files[:4], "--model", model_folder, "--output", output, "--coco", annotations, "--shard", 3)
    assert json.loads((output / "coco_results.json").read_text(encoding="utf-8")) == rows
    assert without_engine == [0, 1]
    with pytest.raises(BatchJobError, match="has no image with the file_name of"):
        CocoIds(str(annotations), ["/x/a.jpg"], [])
    with pytest.raises(BatchJobError, match="two images of the job have the same id"):
        CocoIds(str(annotations), ["/x/b.png", "/y/b.png"], [])
    with pytest.raises(BatchJobError, match='class "dog" of the model is no category'):
        CocoIds(str(annotations), [], ["dog"])
    with pytest.raises(BatchJobError, match="cannot be read as COCO annotations"):
        CocoIds(str(files[0]), [], [])


def test_coco_results_without_detections(job, tmp_path):
    annotations = tmp_path / "annotations.json"
    images = [{"file_name": name, "id": number} for number, name in enumerate("ab")]
    annotations.write_text(json.dumps({"images": images, "categories": []}), encoding="utf-8")
    job.write_shard(0, answers_of("/a", "/b"))
    job.finish(plan_of("/a", "/b"))
    job.write_coco(CocoIds(str(annotations), ["/a", "/b"], []))
    assert json.loads((job.folder / "coco_results.json").read_text(encoding="ascii")) == []


def test_images_are_found_once(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "in" / "lost.jpg").symlink_to(tmp_path / "nowhere.jpg")
    save(tmp_path / "in" / "[odd].jpg")
    (tmp_path / "in" / "e.webp").touch()
    (tmp_path / "in" / "f").write_bytes(images[0].read_bytes())
    (tmp_path / "in" / "._a.jpg").touch()
    for name in ("x.HEIC", "y.heic", "z.tif"):
        (tmp_path / "in" / name).touch()
    listed, left_out = find_images(["in/b*", "in", "./in/[odd].jpg", str(images[1])])
    assert describe(left_out) == "left out: 2 .heic files, 1 .tif file; convert them to JPEG or PNG"
    names = ["b.png", "[odd].jpg", "a.jpg", "c.bmp", "e.webp", "f", "lost.jpg"]
    assert listed == [str(tmp_path / "in" / name) for name in names]
    with pytest.raises(BatchJobError, match="no image found: nothing"):
        find_images(["in", "nothing*"])
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "x.HEIC").touch()
    with pytest.raises(BatchJobError, match="no image found: phone; left out: 1 .heic file; convert"):
        find_images(["phone"])


@pytest.mark.parametrize("option", ["--processes", "--batch", "--shard"])
def test_wrong_values(model_folder, images, tmp_path, option):
    with pytest.raises(BatchJobError, match=f"{option} must be at least 1, got 0"):
        run(images[0], "--model", model_folder, "--output", tmp_path / "job", option, 0)
    with pytest.raises(BatchJobError, match=r"has no saved_model.pb: name the folder of a version"):
        run(images[0], "--model", model_folder.parent, "--output", tmp_path / "job")
    assert not (tmp_path / "job").exists()


def test_paths_that_are_no_unicode(without_engine, model_folder, images, tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")
    shutil.copy(images[0], odd)
    run(odd, "--model", model_folder, "--output", tmp_path / "job")
    (answer,) = read_answers(tmp_path / "job")
    assert answer["image"] == odd
    assert answer["detections"]


def test_the_hash_sees_other_weights(model_folder, tmp_path):
    copy = Path(shutil.copytree(model_folder, tmp_path / "copy"))
    assert hash_of_model(str(copy)) == hash_of_model(str(model_folder))
    (weights,) = (copy / "variables").glob("*.data-*")
    contents = bytearray(weights.read_bytes())
    contents[len(contents) // 2] ^= 1
    weights.write_bytes(contents)
    assert hash_of_model(str(copy)) != hash_of_model(str(model_folder))


def test_size_of_an_image_that_pillow_does_not_know(tmp_path, monkeypatch):
    def refuse(file):
        raise OSError

    contents = save(tmp_path / "image.png", 31, 47).read_bytes()
    monkeypatch.setattr(Image, "open", refuse)
    assert image_size(contents) == (31, 47)


def test_nothing_of_the_package_is_needed(model_folder, images, tmp_path):
    """The work of a process of Spark runs where this package and Keras cannot be imported."""
    program = (
        "import sys\nfrom batch_job import answer_shards\nfrom batch_files import JobFolder, Plan\n"
        "model, output, *images = sys.argv[1:]\nJobFolder(output).start(Plan('', 9, images))\n"
        "print(*answer_shards([(0, images)], model, output, 2, 1))"
    )
    arguments = ["-c", program, model_folder, tmp_path / "job", *images]
    without = ("refinedet_tf", "keras", "pydantic")
    printed, _ = output_without(without, *arguments, folder=tmp_path, python_path=[SERVING])
    assert printed.endswith(", 3)\n")
    lines = (tmp_path / "job" / "shards" / "00000.jsonl").read_text(encoding="ascii").splitlines()
    assert [json.loads(line)["image"] for line in lines] == list(map(str, images))


def test_without_spark(model_folder, images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspark", None)
    monkeypatch.setitem(sys.modules, "py4j", None)
    with pytest.raises(BatchJobError, match=r"Spark is not installed: pip install -r serving"):
        run(images[0], "--model", model_folder, "--output", tmp_path / "job")


def start_job(*arguments):
    """Starts the job on Spark in a new process group; the test is skipped without pyspark or Java."""
    pytest.importorskip("pyspark")
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        pytest.skip("Java is not installed")
    return subprocess.Popen(
        [sys.executable, str(SERVING / "batch_job.py"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def spark_workers(driver):
    """The ids of the Python processes of Spark that answer shards, below the process `driver`."""
    listing = subprocess.run(
        ["ps", "-eo", "pid,ppid,args"], check=True, capture_output=True, text=True
    ).stdout
    parents, commands = {}, {}
    for line in listing.splitlines()[1:]:
        pid, parent, command = line.split(None, 2)
        parents[int(pid)], commands[int(pid)] = int(parent), command

    def is_below(pid):
        while pid in parents and pid != driver:
            pid = parents[pid]
        return pid == driver

    daemons = {pid for pid in commands if "pyspark.daemon" in commands[pid]}
    return sorted(pid for pid in daemons if parents[pid] in daemons and is_below(pid))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """400 paths of generated images, every hundredth of which is broken."""
    folder = tmp_path_factory.mktemp("photographs")
    original = save(folder / "original" / "image.png", 300, 400)
    paths = [folder / f"{number:03d}.png" for number in range(400)]
    for number, path in enumerate(paths):
        if number % 100 == 50:
            path.write_bytes(original.read_bytes()[: 100 + number])
        else:
            os.link(original, path)
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["nothing", "worker", "everything"])
def test_spark_answers_every_image_once(model_folder, photographs, tmp_path, killed):
    """Two processes; one of them, or the whole job, ends with SIGKILL in the middle."""
    output = tmp_path / "job"
    arguments = [photographs[0].parent, "--model", model_folder, "--output", output]
    arguments += ["--processes", 2, "--shard", 10, "--batch", 2]
    process = start_job(*arguments)
    try:
        if killed != "nothing":
            deadline = time.monotonic() + 300
            while len(list((output / "shards").glob("[0-9]*.jsonl"))) < 5:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
            workers = spark_workers(process.pid)
            assert len(workers) == 2
            if killed == "worker":
                os.kill(workers[0], signal.SIGKILL)
            else:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate(timeout=60)
            assert not (output / "detections.jsonl").exists()
            if killed == "everything":
                process = start_job(*arguments)
        printed, errors = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, errors
    assert ("Python worker exited unexpectedly" in errors) == (killed == "worker")
    assert ("going on" in printed) == (killed == "everything")
    assert "400 images, 4 of them without result" in printed
    answers = read_answers(output)
    assert [answer["image"] for answer in answers] == list(map(str, photographs))
    broken = [number for number, answer in enumerate(answers) if "error" in answer]
    assert broken == [50, 150, 250, 350]
    assert len({json.dumps(answer["detections"]) for answer in answers if "error" not in answer}) == 1
    for number in broken:
        assert f"image {photographs[number]} cannot be decoded" in errors


@pytest.mark.slow
def test_a_task_that_always_fails_ends_the_job(model_folder, photographs, tmp_path):
    broken = Path(shutil.copytree(model_folder, tmp_path / "model"))
    (broken / "saved_model.pb").write_bytes(b"no model")
    process = start_job(photographs[0], "--model", broken, "--output", tmp_path / "job")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    line = errors.splitlines()[-1]
    assert line.startswith("error: Spark has given up, and complete shards are kept")
    assert "saved_model" in line
