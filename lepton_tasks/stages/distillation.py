"""Train a student network to imitate a trained one (distillation), by the original training settings."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lepton_tasks.core.artifacts import CheckpointRef, DatasetRef, PreprocessorRef
from lepton_tasks.core.components import check_prunable
from lepton_tasks.core.context import Progress, RunContext
from lepton_tasks.core.spec import ComponentSpec
from lepton_tasks.core.store import digest_of
from lepton_tasks.core.train_settings import Train
from lepton_tasks.core.use_case import UseCase


def student_trainer(
    use_case: UseCase,
    ctx: RunContext,
    *,
    checkpoint: CheckpointRef,
    features: DatasetRef,
    preprocessor: PreprocessorRef,
    samples: Callable[[int], np.ndarray],
) -> Callable[..., None]:
    """The function `CompressionInput.teach`, with a trained network as teacher. A killed training resumes.

    Args:
        use_case: Defines task, seed and export.
        ctx: The run.
        checkpoint: The teacher and its training settings.
        features: The training data.
        preprocessor: The fitted preprocessor.
        samples: See `CompressionInput`.
    """

    def teach(
        student: ComponentSpec | None,
        output: Path,
        *,
        share: float,
        temperature: float,
        epochs: int | None = None,
        prune: float = 0.0,
        rate: float = 1.0,
    ) -> None:
        from lepton_tasks.training.checkpoint import finished
        from lepton_tasks.training.curves import told
        from lepton_tasks.training.export import export_onnx
        from lepton_tasks.training.job import Job, Teacher
        from lepton_tasks.training.launch import training, wait

        settings = Train.model_validate(ctx.read_json(checkpoint, "checkpoint.json")["train"])
        changes: dict[str, Any] = {"epochs": epochs or settings.epochs, "devices": 1}
        if student is None:
            student = ComponentSpec.model_validate(ctx.read_json(checkpoint, "checkpoint.json")["model"])
            check_prunable(student.name, where="pruned")
            changes["epochs"] = epochs or max(1, settings.epochs // 4)
            changes["learning_rate"] = settings.learning_rate * rate
        student_case = use_case.model_copy(update={"model": student, "train": settings.model_copy(update=changes)})
        teacher = Teacher(checkpoint=ctx.open(checkpoint), share=share, temperature=temperature, prune=prune)
        key = digest_of([student.model_dump(), changes, teacher.model_dump(mode="json")])[:16]
        workdir = ctx.workdir / key
        workdir.mkdir(parents=True, exist_ok=True)
        job = Job.of(
            student_case,
            run_id=ctx.run_id,
            features=ctx.open(features),
            workdir=workdir,
            preprocessor=ctx.read_json(preprocessor, "preprocessor.json"),
            seed=ctx.seed,
        ).model_copy(update={"teacher": teacher})

        def epoch_ended(row: Mapping[str, Any]) -> None:
            done, epochs = row["epoch"] + 1, job.train.epochs
            ctx.on_progress(Progress(ctx.stage, done, epochs, "epochs", row["seconds"], note=told(row)))

        with training(job) as process:
            outcome = wait(job, process, epoch_ended)
        trained = finished(job, outcome)
        ctx.log.info("%s has %s parameters", student.name, f"{outcome['parameters']:,}")
        export_onnx(trained.deployable, samples(2), output, outputs=trained.task.outputs, opset=use_case.export.opset)
        shutil.rmtree(workdir)

    return teach
