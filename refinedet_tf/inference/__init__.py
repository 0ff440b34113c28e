"""This package turns the heads of the network into detections of images."""
