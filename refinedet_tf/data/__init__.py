"""This package turns files on disk into batches of images, boxes and labels."""
