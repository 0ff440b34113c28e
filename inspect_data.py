"""Reports on data before a training: python inspect_data.py --config mine.json --output report"""

from refinedet_tf.commands.inspect_data import main
from refinedet_tf.commands.terminal import run

if __name__ == "__main__":
    run(main)
