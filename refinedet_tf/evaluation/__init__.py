"""This package measures detections: average precision, speed, and the files of evaluation servers."""
