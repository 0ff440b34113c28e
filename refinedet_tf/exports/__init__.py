"""This package writes trained networks as files for other programs."""
