"""From the heads of the network to detections of images."""
