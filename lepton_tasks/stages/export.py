"""Stage export: the model package with ONNX graph, codec, labels, fitted values, example and model card."""

from __future__ import annotations

import json

import numpy as np

from lepton_tasks.core.artifacts import CheckpointRef, DatasetRef, EvaluationRef, ModelPackageRef, PreprocessorRef
from lepton_tasks.core.catalogue import CODECS, OUTPUT_CODECS
from lepton_tasks.core.components import codec_spec_of
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.proportions import wilson
from lepton_tasks.core.protocols import LearningTask, Outputs
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.stages import replay


def export(
    use_case: UseCase,
    ctx: RunContext,
    *,
    checkpoint: CheckpointRef,
    preprocessor: PreprocessorRef,
    features: DatasetRef,
    evaluation: EvaluationRef,
) -> ModelPackageRef:
    """Write the sealed model package: ONNX graph, codec, labels, fitted values, model card."""
    from lepton_tasks.quality.served import profile_of_answers
    from lepton_tasks.serving.package import ONNX_FILE, PackageSpec, write_package
    from lepton_tasks.training.card import model_card
    from lepton_tasks.training.checkpoint import read_checkpoint
    from lepton_tasks.training.energy import energies
    from lepton_tasks.training.export import export_onnx

    trained = read_checkpoint(ctx.open(checkpoint))
    task, evaluated, data = trained.task, ctx.open(evaluation), ctx.open(features)
    fitted = ctx.read_json(preprocessor, "preprocessor.json")
    metrics = json.loads((evaluated / "metrics.json").read_text())
    rows = json.loads((data / "dataset.json").read_text())["rows"]
    input_codec, input_params = codec_spec_of(use_case, fitted["fitted"], task)
    output_codec, output_params = task.output_codec()
    payloads, served = replay.read_requests(evaluated), replay.read_outputs(evaluated / replay.SERVED_FILE)
    draft = ctx.draft()
    graph = draft.path / ONNX_FILE
    samples = replay.decoded(CODECS.build(input_codec, input_params), payloads[:2])
    tensors = export_onnx(trained.deployable, samples, graph, outputs=task.outputs, opset=use_case.export.opset)
    spec = PackageSpec.model_validate(
        {
            "name": use_case.name,
            "task": use_case.learning_task.name,
            "input_codec": {"name": input_codec, "params": input_params},
            "output_codec": {"name": output_codec, "params": output_params},
            "labels": trained.spec["labels"],
            "metrics": metrics["test"],
            "validation": metrics["validation"],
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
        tracked=checkpoint.facts.get("mlflow_run_id") is not None,
    )
    row = _example_row(task, served, task.evaluation_rows(data, "test").targets[: len(payloads)])
    answers = OUTPUT_CODECS.build(output_codec, output_params)
    example = payloads[row], answers.encode(served, row)
    profile = json.loads((evaluated / replay.PROFILE_FILE).read_text())
    profile |= {"answers": profile_of_answers(answers, served, ctx), "test_rows": rows["test"]}
    profile["training"] = energies(trained.spec)
    write_package(draft.path, onnx=graph, spec=spec, preprocessor=fitted, card=card, example=example, profile=profile)
    size = graph.stat().st_size
    ctx.log.info("model.onnx has %.1f KB", size / 1024)
    return ctx.publish(
        draft, ModelPackageRef, {"onnx_bytes": size, f"test_{task.metric}": metrics["test"][task.metric]}
    )


def _example_row(task: LearningTask, served: Outputs, targets: np.ndarray) -> int:
    """Index of the first request answered correctly with a confidence above 0.9; 0 if there is none."""
    right = task.right(served, targets) if task.replayable else None
    confident = task.confidence(served) > 0.9
    suitable = np.flatnonzero(confident if right is None else confident & right)
    return int(suitable[0]) if len(suitable) else 0
