"""The detections of one, two and four replicas, and the portions of several processes."""

import json

import numpy as np
import pytest
from processes import finish, start_program
from tiers import slow

from refinedet_tf.config import Config
from refinedet_tf.evaluation.portions import Portion, join_portions, portion_of
from refinedet_tf.evaluation.results import TilingCost
from refinedet_tf.inference.detections import DatasetDetections
from refinedet_tf.inference.image_detector import Cost
from refinedet_tf.inference.replicas import Replicas, ReplicaWork


@pytest.fixture(scope="module", params=[(1, 2), slow((1, 2, 4))], ids=str)
def found(request, config_file):
    """What the program prints; "counts" are the numbers of replicas."""
    counts = [str(count) for count in request.param]
    ((code, out, err),) = finish(start_program("portions_program.py", str(config_file), *counts))
    assert code == 0, err
    return json.loads(out) | {"counts": counts}


WORK = {
    "evaluation": {"1": [12], "2": [6, 6], "4": [4, 4, 2, 2]},
    "tiles": {"1": [4], "2": [2, 2], "4": [1, 1, 1, 1]},
    "multi-scale": {"1": [4], "2": [2, 2], "4": [1, 1, 1, 1]},
}
"""The images of each replica by the number of replicas: 12 in batches of 2, and 4 in batches of 1."""


@pytest.mark.parametrize("kind", WORK)
def test_any_number_of_replicas_detects_the_same(found, kind):
    assert found["images"] == 12
    assert found[kind]["equal"] == [True] * len(found["counts"])
    assert found[kind]["detections"] > 50 and found[kind]["labels"] > 1
    assert found[kind]["work"] == {
        count: [[f"replica {number}", images] for number, images in enumerate(WORK[kind][count])]
        for count in found["counts"]
    }


def test_any_number_of_replicas_sees_the_same_tiles(found):
    first, *several = found["views"]
    assert first >= 4 * 5 and several == [first] * (len(found["counts"]) - 1)
    limited, *others = found["limited"]
    assert limited == [first, 0] and others == [limited] * (len(found["counts"]) - 1)


def test_errors_of_other_threads_stay_there(found):
    assert found["errors of others"] == 0


def test_detect_writes_the_same_and_says_who_did_what(found):
    first, *several = found["detect"]
    assert "1 of 13 images left out: image /broken.jpg cannot be decoded" in first["error"]
    assert len(json.loads(first["text"])) == 12
    for result in several:
        assert (result["error"], result["text"]) == (first["error"], first["text"])
    (limit,) = first["printed"]
    assert limit.startswith("note: 12 of 12 images have 400 or more candidates before NMS")
    work = [[line.partition(" in ")[0] for line in result["printed"][:-1]] for result in several]
    assert all(result["printed"][-1] == limit for result in several)
    shares = ((6, 6), (4, 4, 2, 2))
    expected = [
        [f"replica {number}: {count} images" for number, count in enumerate(share)] for share in shares
    ]
    assert work == expected[: len(several)]


def test_every_replica_reads_its_copy_of_the_weights(found):
    cpu = "/job:localhost/replica:0/task:0/device:CPU:"
    assert found["weights"] == [[f"{cpu}0"], [f"{cpu}1"]]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_image_has_one_process(count):
    parts = [portion_of(11, 2, index, count) for index in range(count)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(11))
    for index, part in enumerate(parts):
        assert {image // 2 % count for image in part.tolist()} <= {index}


def test_joined_shares_are_those_of_one_process():
    generator = np.random.default_rng(0)
    images = np.sort(generator.integers(0, 9, 50))
    rows = [generator.integers(1, 4, 50).astype(np.int32), generator.random(50, np.float32)]
    boxes = generator.random((50, 4), np.float32)
    whole = Portion(
        DatasetDetections(images, *rows, boxes),
        Cost(views=30, inputs=30, seconds=2.0, plain_seconds=1.0),
        (ReplicaWork("replica 0", 9, 3.0),),
    )
    portions = []
    for index in range(3):  # The last process has no image.
        kept = np.isin(images, portion_of(9, 5, index, 3))
        part = DatasetDetections(images[kept], *(column[kept] for column in rows), boxes[kept])
        portions.append(
            Portion(
                part,
                Cost(10 * index, 10 * index, (index, 0), seconds=1.0, plain_seconds=0.25),
                (ReplicaWork("replica 0", (5, 4, 0)[index], 1.5),),
            )
        )
    facts = json.loads(json.dumps([portion.facts() for portion in portions]))
    joined = join_portions(["worker:0", "worker:1", "worker:2"], facts, [s.to_bytes() for s in portions], 1)
    assert joined.to_bytes() == whole.to_bytes()
    assert joined.cost == Cost(30, whole.cost.views, (3, 0), 3.0, 0.75)
    tiling = TilingCost(30 / 9, 1, 3.0 / 9, 0.75 / 9)
    assert joined.cost_fields(Config()) == {"work": joined.work, "tiling": tiling}
    assert [str(work) for work in joined.work] == [
        "worker:0 replica 0: 5 images in 1.5 s",
        "worker:1 replica 0: 4 images in 1.5 s",
        "worker:2 replica 0: 0 images in 1.5 s",
    ]
    assert joined.num_images == 9


def test_an_error_in_a_replica_ends_the_work():
    replicas = Replicas(lambda images: {}, object)
    read = []

    def batches():
        for number in range(100):
            read.append(number)
            yield number

    def detect(detector, batch):
        if batch == 3:
            raise ValueError("batch 3")
        return [batch]

    done = []
    with pytest.raises(ValueError, match="batch 3"):
        for batch, results in replicas.run(batches(), detect):
            done.append((batch, results))
    assert done == [(0, [0]), (1, [1]), (2, [2])]
    assert len(read) <= 6
    assert replicas.work[0].images in (3, 4)
