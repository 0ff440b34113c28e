"""What the index of a data set promises."""


def check_dataset(dataset, root):
    """Checks everything that a training or an evaluation reads of the index of images below `root`."""
    num_images, num_boxes = len(dataset), len(dataset.boxes)
    assert dataset.image_sizes.shape == (num_images, 2) and (dataset.image_sizes >= 1).all()
    assert dataset.boxes.shape == (num_boxes, 4)
    assert ((dataset.boxes >= 0) & (dataset.boxes <= 1)).all()
    assert (dataset.boxes[:, 2:] > dataset.boxes[:, :2]).all()
    assert len(dataset.labels) == len(dataset.difficult) == num_boxes
    assert ((dataset.labels >= 1) & (dataset.labels <= len(dataset.class_names))).all()
    assert dataset.offsets[0] == 0 and dataset.offsets[-1] == num_boxes
    for path in dataset.image_paths:
        assert path.startswith(f"{root}/") and "/../" not in path
    for text in (*dataset.class_names, *dataset.image_ids, dataset.defects.summary()):
        text.encode()
        assert "\0" not in text
    assert len(dataset.defects.summary()) < 2_000
