"""Measures accuracy and speed of a trained model: python evaluate.py --config runs/voc320"""

from refinedet_tf.commands.evaluate import main
from refinedet_tf.commands.terminal import run

if __name__ == "__main__":
    run(main)
