"""RefineDet as the paper describes it: from anchors to detections."""
