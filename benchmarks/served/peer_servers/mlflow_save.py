"""Write an MLflow model of the ONNX file, for `mlflow models serve`."""

import argparse

import mlflow.onnx
import onnx
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from onnx_model import OnnxModel

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--onnx", required=True)
    parser.add_argument("--folder", required=True)
    chosen = parser.parse_args()
    import numpy as np

    model = OnnxModel(chosen.onnx)
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(model.dtype), (-1, *model.shape), model.input)]),
        Schema([TensorSpec(np.dtype(np.float32), (-1, model.session.get_outputs()[0].shape[1]), model.output)]),
    )
    mlflow.onnx.save_model(
        onnx.load(chosen.onnx),
        chosen.folder,
        signature=signature,
        pip_requirements=[],
        onnx_session_options={"intra_op_num_threads": 1, "inter_op_num_threads": 1},
    )
