"""Exports a trained model: python export_savedmodel.py --config runs/voc320 --output exports/voc320"""

from refinedet_tf.commands.export import main
from refinedet_tf.commands.terminal import run

if __name__ == "__main__":
    run(main)
