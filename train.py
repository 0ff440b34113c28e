"""Trains a RefineDet: python train.py --config voc320.json --output runs/voc320"""

from refinedet_tf.commands.terminal import run
from refinedet_tf.commands.train import main

if __name__ == "__main__":
    run(main)
