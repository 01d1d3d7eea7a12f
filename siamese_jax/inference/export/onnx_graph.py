"""An ONNX graph under construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

_OPSET = 17
_IR_VERSION = 8  # of the file, which runtimes since 2022 read


class Graph:
    """Nodes and constants in the order in which they were added.

    A value is known by its name, which `input`, `constant` and `add` return.
    """

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dtype: type, shape: Sequence[int | str]) -> str:
        """Adds an input of the graph; a side given as a word may have any length."""
        element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._inputs.append(helper.make_tensor_value_info(name, element, shape))
        return name

    def constant(self, value: Any) -> str:
        """Adds an array or a number; floats become float32, whole numbers int64."""
        array = np.asarray(value)
        array = array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)
        name = f"constant{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output.

        Args:
            operator: of the ONNX standard, such as `Conv`.
            *inputs: names of values.
            **attributes: of the operator.
        """
        output = f"{operator}{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def cast(self, x: str, dtype: type) -> str:
        """Converts a value to another type of number."""
        return self.add("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def model(
        self, value: str, name: str, shape: Sequence[int | str], metadata: Mapping[str, str]
    ) -> bytes:
        """The finished model, checked against the standard.

        Args:
            value: its output.
            name: that the output gets.
            shape: of the output, which is float32.
            metadata: texts for the model's properties.
        """
        nodes = [*self._nodes, helper.make_node("Identity", [value], [name])]
        output = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        graph = helper.make_graph(nodes, "siamese_jax", self._inputs, [output], self._constants)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
            producer_name="siamese_jax",
        )
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()
