"""The flatbuffer of a LiteRT file: its operators, and the part of it that computes convolutions.

A model is a `ModelT` of the schema of TensorFlow Lite. It consists of subgraphs; the first one is the
function that is called, the others are the bodies of loops. A subgraph has tensors, and operators in the
order of their execution, which name their inputs and outputs by the indices of tensors.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from refinedet_tf.errors import InputError

Model = Any
"""A `schema.ModelT`; the generated module has no types."""

CONVOLUTIONS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"})
"""The operators that compute with kernels."""

_OPERATOR_NAMES = {
    number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)
}


def read_model(contents: bytes) -> Model:
    """Reads the contents of a LiteRT file."""
    return schema.ModelT.InitFromPackedBuf(contents, 0)


def write_model(model: Model) -> bytes:
    """Returns the contents of a LiteRT file."""
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def operator_name(model: Model, operator: Any) -> str:
    """Returns the name of an operator, such as "CONV_2D"; that of a custom operator begins with "CUSTOM"."""
    code = model.operatorCodes[operator.opcodeIndex]
    # Numbers above 127 do not fit the field of older versions, which then holds 127.
    name = _OPERATOR_NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]
    return f"{name} {code.customCode.decode()}" if name == "CUSTOM" else name


def operator_names(model: Model) -> Iterator[str]:
    """Yields the names of all operators, also of those in loops."""
    for subgraph in model.subgraphs:
        for operator in subgraph.operators or []:
            yield operator_name(model, operator)


def check_builtin(model: Model, name: str) -> None:
    """Checks that every runtime has the operators.

    Args:
        model: the model.
        name: the name of the file, for the message.

    Raises:
        InputError: an operator is TensorFlow's ("Flex") or another custom operator.
    """
    custom = sorted({operator for operator in operator_names(model) if operator.startswith("CUSTOM")})
    if custom:
        raise InputError(f"{name}: the network needs operators that LiteRT has not: {', '.join(custom)}")


OPTIONS = {
    schema.BuiltinOperator.RESHAPE: (schema.BuiltinOptions.ReshapeOptions, schema.ReshapeOptionsT),
    schema.BuiltinOperator.MUL: (schema.BuiltinOptions.MulOptions, schema.MulOptionsT),
    schema.BuiltinOperator.SUB: (schema.BuiltinOptions.SubOptions, schema.SubOptionsT),
}
"""The kinds of the options of those built-in operators of `add_operator` that must have some; their defaults
are right here."""


def add_buffer(model: Model, contents: bytes) -> int:
    """Adds a buffer of bytes to a model, and returns its index."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(contents, np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def add_tensor(model: Model, name: str, shape: list[int], values: np.ndarray | None = None) -> int:
    """Adds a tensor to the function of a model without loops, and returns its index.

    Args:
        model: the model, which is changed.
        name: its name.
        shape: its shape.
        values: float32 or int32; None: an operator computes it, in float32.
    """
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type = name.encode(), shape, schema.TensorType.FLOAT32
    if values is not None:
        if values.dtype == np.int32:
            tensor.type = schema.TensorType.INT32
        tensor.buffer = add_buffer(model, values.tobytes())
    (graph,) = model.subgraphs
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def add_operator(
    model: Model, number: int, inputs: list[int], outputs: list[int], custom: tuple[str, bytes] = ("", b"")
) -> None:
    """Appends an operator to the function of a model without loops.

    Args:
        model: the model, which is changed.
        number: its number in `schema.BuiltinOperator`.
        inputs: the indices of the tensors that it takes.
        outputs: those of the tensors that it computes.
        custom: the name and the options of a custom operator.
    """
    code, operator = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
    if number == schema.BuiltinOperator.CUSTOM:
        name, options = custom
        code.customCode, operator.customOptions = name.encode(), list(options)
    elif number in OPTIONS:
        operator.builtinOptionsType, kind = OPTIONS[number]
        operator.builtinOptions = kind()
    model.operatorCodes.append(code)
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs, operator.outputs = inputs, outputs
    (graph,) = model.subgraphs
    graph.operators.append(operator)


def change_network(model: Model, change: Callable[[Model], Model]) -> Model:
    """Changes a model without loops up to its last convolutions; what follows them stays as it is.

    Args:
        model: the model, which is left alone.
        change: takes the part up to the last convolutions, whose outputs are theirs, and returns one with
            the same inputs and outputs in float32.

    Returns:
        The changed part with the operators, outputs and signatures of the model after it.
    """
    (source,) = model.subgraphs
    tail, convolved = _tail(model)
    network = copy.deepcopy(model)
    network.signatureDefs = None
    (graph,) = network.subgraphs
    graph.outputs = convolved
    graph.operators = [operator for index, operator in enumerate(graph.operators) if index not in tail]
    network = change(network)
    (graph,) = network.subgraphs
    places = dict(zip(source.inputs, graph.inputs, strict=True))
    places |= dict(zip(convolved, graph.outputs, strict=True))
    for index in tail:
        operator = copy.deepcopy(source.operators[index])
        for tensor in [*operator.inputs, *operator.outputs]:
            if tensor not in places and tensor >= 0:
                places[tensor] = len(graph.tensors)
                _append_tensor(network, model, source.tensors[tensor])
        operator.inputs, operator.outputs = (
            [places.get(tensor, tensor) for tensor in tensors]
            for tensors in (operator.inputs, operator.outputs)
        )
        network.operatorCodes.append(model.operatorCodes[operator.opcodeIndex])
        operator.opcodeIndex = len(network.operatorCodes) - 1
        graph.operators.append(operator)
    graph.outputs = [places[tensor] for tensor in source.outputs]
    network.signatureDefs = copy.deepcopy(model.signatureDefs)
    for signature in network.signatureDefs or []:
        for named in [*signature.inputs, *signature.outputs]:
            named.tensorIndex = places[named.tensorIndex]
    return network


def _tail(model: Model) -> tuple[list[int], list[int]]:
    """Returns the operators after the last convolutions, and the outputs of these, by ascending index."""
    (graph,) = model.subgraphs
    producers = {
        tensor: index for index, operator in enumerate(graph.operators) for tensor in operator.outputs
    }
    operators: set[int] = set()
    convolved: set[int] = set()
    waiting = list(graph.outputs)
    while waiting:
        tensor = waiting.pop()
        index = producers.get(tensor)
        if index is None or index in operators:
            continue
        if operator_name(model, graph.operators[index]) in CONVOLUTIONS:
            convolved.add(tensor)
        else:
            operators.add(index)
            waiting.extend(graph.operators[index].inputs)
    return sorted(operators), sorted(convolved)


def _append_tensor(network: Model, source: Model, tensor: Any) -> None:
    """Appends a copy of a tensor of the model `source`, without the statistics of a calibration."""
    copied = copy.deepcopy(tensor)
    copied.quantization = None
    network.buffers.append(source.buffers[tensor.buffer])
    copied.buffer = len(network.buffers) - 1
    network.subgraphs[0].tensors.append(copied)
