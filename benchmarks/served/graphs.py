"""Four models, each as one ONNX file that every server gets, and as a model package of ours.

Weights are random: nothing is to be learned, only computed.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lepton_tasks.core.spec import ComponentSpec
from lepton_tasks.core.store import digest_of, sha256_file
from lepton_tasks.serving.package import PackageSpec, TensorSpec, write_package

SIDE, TOKENS, WORDS, CLASSES = 64, 64, 10_000, 10
_TYPES = {"uint8": TensorProto.UINT8, "int64": TensorProto.INT64, "float32": TensorProto.FLOAT}


@dataclasses.dataclass(frozen=True)
class Model:
    """One model: a graph of one input and one output.

    Attributes:
        name: What servers call it.
        path: The ONNX file.
        input: Name of the input.
        output: Name of the output, float32 [N, columns].
        dtype: Of the input.
        shape: Of one sample.
        package: Folder of the model package.
        digest: Of the package.
    """

    name: str
    path: Path
    input: str
    output: str
    dtype: str
    shape: tuple[int, ...]
    package: Path
    digest: str

    def samples(self, count: int, seed: int = 0) -> np.ndarray:
        """Random inputs [count, *shape]."""
        chance = np.random.default_rng(seed)
        if self.dtype == "float32":
            return chance.normal(size=(count, *self.shape)).astype(np.float32)
        high = 256 if self.dtype == "uint8" else WORDS
        return chance.integers(0, high, (count, *self.shape)).astype(self.dtype)


class _Graph:
    """Collects nodes and weights."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._chance = np.random.default_rng(0)

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        outputs = ["", output] if kind == "LSTM" else [output]  # of an LSTM, the last state
        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return output

    def weight(self, name: str, *shape: int) -> str:
        """Random weights that keep the size of what passes."""
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        return self.constant(name, (self._chance.normal(size=shape) * scale).astype(np.float32))

    def constant(self, name: str, value: Any) -> str:
        """A fixed array."""
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def classify(self, features: str, width: int) -> None:
        """`features` [N, width] -> ``probabilities``."""
        logits = self.node(
            "Gemm", [features, self.weight("W", CLASSES, width), self.weight("B", CLASSES)], "z", transB=1
        )
        self.node("Softmax", [logits], "probabilities", axis=1)


def _cnn(widths: tuple[int, ...]) -> _Graph:
    """uint8 [N, 64, 64, 3] -> four and fewer convolutions of stride 2 -> probabilities."""
    g = _Graph()
    x = g.node("Cast", ["image"], "floats", to=TensorProto.FLOAT)
    x = g.node("Div", [x, g.constant("most", np.float32(255))], "scaled")
    x = g.node("Transpose", [x], "planes", perm=[0, 3, 1, 2])
    before = 3
    for i, width in enumerate(widths):
        weights = [g.weight(f"w{i}", width, before, 3, 3), g.weight(f"b{i}", width)]
        x = g.node("Conv", [x, *weights], f"conv{i}", strides=[2, 2], pads=[1, 1, 1, 1])
        x = g.node("Relu", [x], f"relu{i}")
        before = width
    x = g.node("GlobalAveragePool", [x], "pooled")
    g.classify(g.node("Flatten", [x], "features"), before)
    return g


def _lstm(width: int = 72) -> _Graph:
    """int64 [N, 64] -> word vectors -> LSTM -> its last state -> probabilities."""
    g = _Graph()
    x = g.node("Gather", [g.weight("words", WORDS, width), "tokens"], "vectors")
    x = g.node("Transpose", [x], "steps", perm=[1, 0, 2])
    weights = [g.weight("wi", 1, 4 * width, width), g.weight("wr", 1, 4 * width, width), g.weight("wb", 1, 8 * width)]
    x = g.node("LSTM", [x, *weights], "state", hidden_size=width)
    g.classify(g.node("Squeeze", [x, g.constant("first", np.array([0]))], "features"), width)
    return g


def _embedding(width: int = 128) -> _Graph:
    """int64 [N, 64] -> word vectors -> their mean -> probabilities."""
    g = _Graph()
    x = g.node("Gather", [g.weight("words", WORDS, width), "tokens"], "vectors")
    g.classify(g.node("ReduceMean", [x, g.constant("axis", np.array([1]))], "features", keepdims=0), width)
    return g


def _null() -> _Graph:
    """float32 [N, 4] -> the same."""
    g = _Graph()
    g.node("Identity", ["values"], "embedding")
    return g


# The benchmark sends tensors, which no codec sees; a package must name one all the same.
_PICTURE = ComponentSpec(name="image", params={"height": SIDE, "width": SIDE})
_NUMBERS = ComponentSpec(name="latent", params={"latent": TOKENS, "labels": []})
# Name -> graph, input, dtype, shape of a sample, output, columns of the output, codec.
_RECIPES: dict[str, tuple[Any, str, str, tuple[int, ...], str, int, ComponentSpec]] = {
    "cnn": (lambda: _cnn((32, 56, 112)), "image", "uint8", (SIDE, SIDE, 3), "probabilities", CLASSES, _PICTURE),
    "lstm": (_lstm, "tokens", "int64", (TOKENS,), "probabilities", CLASSES, _NUMBERS),
    "embedding": (_embedding, "tokens", "int64", (TOKENS,), "probabilities", CLASSES, _NUMBERS),
    "null": (_null, "values", "float32", (4,), "embedding", 4, _NUMBERS),
    "cnn_large": (lambda: _cnn((96, 224, 384)), "image", "uint8", (SIDE, SIDE, 3), "probabilities", CLASSES, _PICTURE),
}
NAMES = ("cnn", "lstm", "embedding", "null")
KNOWN = tuple(_RECIPES)


def build(name: str, folder: Path) -> Model:
    """The model `name` with its package, made in `folder`."""
    graph, input_name, dtype, shape, output, columns, codec = _RECIPES[name]
    made = graph()
    told = helper.make_graph(
        made.nodes,
        name,
        [helper.make_tensor_value_info(input_name, _TYPES[dtype], ["N", *shape])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", columns])],
        made.weights,
    )
    proto = helper.make_model(told, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(proto)
    path, package = folder / f"{name}.onnx", folder / name
    onnx.save(proto, str(path))
    package.mkdir(parents=True)
    labels = [str(i) for i in range(columns)] if output == "probabilities" else []
    write_package(
        package,
        onnx=path,
        spec=PackageSpec(
            name=name,
            task="benchmark",
            input_codec=codec,
            output_codec=ComponentSpec(name="labels", params={"labels": labels})
            if labels
            else ComponentSpec(name="embedding"),
            labels=tuple(labels),
            inputs=(TensorSpec(name=input_name, dtype=dtype, shape=(None, *shape)),),
            outputs=(TensorSpec(name=output, dtype="float32", shape=(None, columns)),),
        ),
        preprocessor={},
        card=f"# {name}\n\nRandom weights, for benchmarks.\n",
    )
    digest = digest_of({str(p.relative_to(package)): sha256_file(p) for p in package.rglob("*") if p.is_file()})
    return Model(name, path, input_name, output, dtype, shape, package, digest)
