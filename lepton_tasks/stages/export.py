"""The model package: the trained network as ONNX, with codec, labels, fitted values, example and model card."""

from __future__ import annotations

import io
import json

import numpy as np

from lepton_tasks.core.artifacts import CheckpointRef, DatasetRef, EvaluationRef, ModelPackageRef, PreprocessorRef
from lepton_tasks.core.catalogue import FEATURES, OUTPUT_CODECS
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case import UseCase


def export(
    use_case: UseCase,
    ctx: RunContext,
    *,
    checkpoint: CheckpointRef,
    preprocessor: PreprocessorRef,
    features: DatasetRef,
    evaluation: EvaluationRef,
) -> ModelPackageRef:
    """Everything that serving needs, sealed."""
    from lepton_tasks.learning.significance import wilson
    from lepton_tasks.serving.package import ONNX_FILE, PackageSpec, write_package
    from lepton_tasks.training.card import model_card
    from lepton_tasks.training.checkpoint import read_checkpoint
    from lepton_tasks.training.export import export_onnx

    trained = read_checkpoint(ctx.open(checkpoint))
    fitted = json.loads((ctx.open(preprocessor) / "preprocessor.json").read_text())
    metrics = json.loads((ctx.open(evaluation) / "metrics.json").read_text())
    data = ctx.open(features)
    rows = json.loads((data / "dataset.json").read_text())["rows"]
    extractor = FEATURES.build(use_case.features.name, use_case.features.params, where="features")
    input_codec, input_params = extractor.codec(fitted["fitted"])
    output_codec, output_params = trained.task.output_codec(trained.labels)
    inputs = np.load(data / "test" / "inputs.npy", mmap_mode="r")
    draft = ctx.draft()
    graph = draft.path / ONNX_FILE
    tensors = export_onnx(trained.deployable, inputs, graph, output="probabilities", opset=use_case.export.opset)
    spec = PackageSpec.model_validate(
        {
            "name": use_case.name,
            "task": use_case.learning_task.name,
            "input_codec": {"name": input_codec, "params": input_params},
            "output_codec": {"name": output_codec, "params": output_params},
            "labels": trained.labels,
            "metrics": metrics["test"],
            **tensors,
        }
    )
    accuracy = metrics["test"].get("accuracy")
    card = model_card(
        use_case,
        checkpoint=trained.spec,
        metrics=metrics,
        data={"digest": features.digest, "rows": rows},
        interval=wilson(accuracy, rows["test"]) if accuracy is not None else None,
    )
    outputs = np.load(ctx.open(evaluation) / "outputs.npy")
    encoder = OUTPUT_CODECS.build(output_codec, output_params)
    row = _typical(trained.task.right(outputs, np.load(data / "test" / "targets.npy")), outputs)
    example = _png(inputs[row]), encoder.encode({"probabilities": outputs}, row)
    write_package(draft.path, onnx=graph, spec=spec, preprocessor=fitted, card=card, example=example)
    size = graph.stat().st_size
    ctx.log.info("model.onnx has %.1f KB", size / 1024)
    return ctx.publish(draft, ModelPackageRef, {"onnx_bytes": size, "test_accuracy": accuracy})


def _typical(right: np.ndarray, outputs: np.ndarray) -> int:
    """The first row that is answered rightly and with some certainty; the first one if there is none."""
    good = np.flatnonzero(right & (outputs.max(axis=1) > 0.9))
    return int(good[0]) if len(good) else 0


def _png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, C] as a PNG file, which the codec decodes to the same pixels."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()
