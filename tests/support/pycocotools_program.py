"""COCO's numbers by pycocotools alone, as a program that knows only the files would get them."""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from refinedet_tf.evaluation.coco_ap import SUMMARY_NAMES


def pycocotools_summary(truth, results):
    """COCO's 12 numbers by a plain COCOeval; -1 becomes nan.

    Args:
        truth: the ground truth, a `COCO` or its file.
        results: the detections, a list of COCO's entries or its file.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = truth if isinstance(truth, COCO) else COCO(str(truth))
        found = truth.loadRes(results if isinstance(results, list) else str(results))
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = np.where(evaluation.stats == -1, np.nan, evaluation.stats)
    return dict(zip(SUMMARY_NAMES, values.tolist(), strict=True))
