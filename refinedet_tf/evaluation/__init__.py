"""How good detections are: average precision, speed, and the files of evaluation servers."""
