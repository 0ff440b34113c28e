"""Draws what a trained model detects: python detect.py --config runs/voc320 photos/ --output detections"""

from refinedet_tf.commands.detect import main
from refinedet_tf.commands.terminal import run

if __name__ == "__main__":
    run(main)
