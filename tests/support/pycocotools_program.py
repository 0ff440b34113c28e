"""COCO's numbers by pycocotools alone, as a program that knows only the files would get them."""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from refinedet_tf.evaluation.coco_ap import SUMMARY_NAMES


def pycocotools_summary(truth_file, results_file):
    """COCO's 12 numbers by a plain COCOeval; -1 becomes nan."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(truth_file))
        evaluation = COCOeval(truth, truth.loadRes(str(results_file)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = np.where(evaluation.stats == -1, np.nan, evaluation.stats)
    return dict(zip(SUMMARY_NAMES, values.tolist(), strict=True))
