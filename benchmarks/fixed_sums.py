"""What sums in a fixed order cost: python benchmarks/fixed_sums.py

Training switches TensorFlow's memory optimizer off (`training/sums.py`), so that equal runs have equal
weights. Prints one JSON line with the milliseconds of the training step and of the network alone, each with
TensorFlow's defaults, without the memory optimizer ("fixed") and without any optimizer of graphs
("unoptimized"), measured in turns.
"""

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator, Sequence

import networks
import timing
from training_step import random_batch

from refinedet_tf.commands.options import config_from
from refinedet_tf.commands.terminal import import_tensorflow, run


@contextlib.contextmanager
def unoptimized() -> Iterator[None]:
    """Switches all optimizers of graphs off."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    networks.add_config_options_with_default(parser)
    parser.add_argument("--batch-size", type=int, default=2, help="images per call (default: 2)")
    parser.add_argument("--runs", type=int, default=10, help="measured runs of each (default: 10)")
    options = parser.parse_args(arguments)
    config = config_from(options)
    import_tensorflow()
    import tensorflow as tf

    from refinedet_tf.inference.compiled_detector import inference_network, network_size
    from refinedet_tf.training.sums import sums_in_fixed_order

    image_size = network_size(config)
    trainer = networks.make_trainer(config)
    arrays = random_batch(options.batch_size, image_size, config.num_classes)
    batch = {name: tf.constant(value) for name, value in arrays.items()}
    functions = {
        "step": tf.function(trainer.train_step).get_concrete_function(batch),
        "network": tf.function(inference_network(trainer.network)).get_concrete_function(batch["images"]),
    }
    modes: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
        "default": contextlib.nullcontext,
        "fixed": sums_in_fixed_order,
        "unoptimized": unoptimized,
    }

    def call(what: str, mode: str) -> Callable[[], object]:
        def measured() -> object:
            # A function is optimized anew for other options, and its result is kept for each of them.
            with modes[mode]():
                if what == "step":
                    return functions["step"](batch)["odm_conf"]
                return functions["network"](batch["images"])

        return measured

    calls = {f"{what}_{mode}": call(what, mode) for what in functions for mode in modes}
    milliseconds = timing.measure_in_turns(calls, options.runs)
    result = {name: timing.spread(values) for name, values in milliseconds.items()} | {
        "config": config.name,
        "backbone": config.model.backbone,
        "batch_size": options.batch_size,
        "device": networks.device_name(),
        "runs": options.runs,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    run(main)
