"""Tiny model packages whose answers tell which version gave them."""

import io

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

from lepton_tasks.core.store import digest_of, sha256_file
from lepton_tasks.serving.package import PackageSpec, write_package

LABELS = ["dark", "light"]
SIDE = 8


def graph(offset=0.0):
    """probabilities = [1 - p, p] with p = mean pixel / 255 / 2 + offset: `offset` marks the version."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "half"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["light"]),
        helper.make_node("Sub", ["one", "light"], ["dark"]),
        helper.make_node("Unsqueeze", ["dark", "last"], ["a"]),
        helper.make_node("Unsqueeze", ["light", "last"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["probabilities"], axis=1),
    ]
    constants = {
        "axes": np.array([1, 2, 3], np.int64),
        "half": np.array(1 / 510, np.float32),
        "offset": np.array(offset, np.float32),
        "one": np.array(1, np.float32),
        "last": np.array([1], np.int64),
    }
    made = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIDE, SIDE, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def picture(value, side=SIDE, noise=False):
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side)) if noise else np.full((side, side), value)
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def expected(value, offset=0.0):
    light = value / 510 + offset
    probabilities = {"dark": 1 - light, "light": light}
    label = max(probabilities, key=probabilities.get)
    return {"label": label, "probability": probabilities[label], "probabilities": probabilities}


def make_package(folder, *, offset=0.0, onnx_bytes=None, example=True, expects=None, profile=None):
    """Writes a package into `folder` and returns its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = PackageSpec(
        name="tiny",
        task="image_classification",
        input_codec={"name": "image", "params": {"height": SIDE, "width": SIDE, "channels": 1}},
        output_codec={"name": "labels", "params": {"labels": LABELS}},
        labels=LABELS,
        inputs=[{"name": "image", "dtype": "uint8", "shape": [None, SIDE, SIDE, 1]}],
        outputs=[{"name": "probabilities", "dtype": "float32", "shape": [None, 2]}],
        metrics={"accuracy": 0.5},
    )
    write_package(
        folder,
        onnx=onnx_bytes or graph(offset),
        spec=spec,
        preprocessor={"schema_version": 1},
        card="# Tiny\n",
        example=(picture(200), expects or expected(200, offset)) if example else None,
        profile=profile,
    )
    return digest_of({p.name: sha256_file(p) for p in folder.iterdir()})


def sums(dtype, shape):
    """value [N] = the sum of an input [N, *shape]."""
    nodes = [
        helper.make_node("Cast", ["row"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["numbers", "axes"], ["value"], keepdims=0),
    ]
    made = helper.make_graph(
        nodes,
        "sums",
        [helper.make_tensor_value_info("row", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), ["N", *shape])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["N"])],
        [onnx.numpy_helper.from_array(np.arange(1, 1 + len(shape)), "axes")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def make_sums(folder, codec, params, *, dtype="float64", shape, name="sums", example=None):
    """A package that answers with the sum of what its codec makes of a request; returns its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = PackageSpec(
        name=name,
        task="tabular_regression",
        input_codec={"name": codec, "params": params},
        output_codec={"name": "number", "params": {}},
        labels=(),
        inputs=[{"name": "row", "dtype": dtype, "shape": [None, *shape]}],
        outputs=[{"name": "value", "dtype": "float32", "shape": [None]}],
    )
    write_package(folder, onnx=sums(dtype, shape), spec=spec, preprocessor={}, card="# Sums\n", example=example)
    return digest_of({p.name: sha256_file(p) for p in folder.iterdir()})


TABLE = {
    "columns": [
        {"name": "a", "type": "float", "required": True},
        {"name": "code", "type": "text", "values": ["007", "8"]},
    ]
}
"""Params of a tabular codec: ``code`` counts 2 for ``007``, 3 for ``8``, 0 for others and 1 where it is missing."""
