"""Run stages on behalf of SDK models: data preparation, training in a child process, predictions through codecs."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_tasks.core.artifacts import ArtifactRef
from lepton_tasks.core.catalogue import CODECS, OUTPUT_CODECS
from lepton_tasks.core.components import codec_spec_of
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ArtifactError, DataError
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.serving.calls import payload_of

if TYPE_CHECKING:
    from lepton_tasks.training.checkpoint import Checkpoint

FORMAT = "lepton-model-2"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Data processed by the stages up to `validate_features`."""

    ctx: RunContext
    refs: dict[str, ArtifactRef]
    preprocessor: dict[str, Any]

    @property
    def fitted(self) -> dict[str, Any]:
        """Fitted values of the feature extractor."""
        fitted: dict[str, Any] = self.preprocessor["fitted"]
        return fitted

    @property
    def labels(self) -> list[str]:
        """Names of the classes."""
        labels: list[str] = self.preprocessor["labels"]
        return labels

    @property
    def features(self) -> Path:
        """Folder of the features artifact."""
        return self.ctx.open(self.refs["features"])


def prepared(use_case: UseCase) -> Prepared:
    """Prepare the data of a use case by its stages; unchanged stages are reused.

    Raises:
        LeptonError: from the stage that failed.
    """
    from lepton_tasks.stages.runner import run_pipeline

    ctx = RunContext.from_env(f"sdk-{uuid.uuid4().hex[:12]}")
    result = run_pipeline(use_case, ctx, until="validate_features")
    for stage in result.stages:
        if stage.error is not None:
            raise stage.error
    refs = dict(result.refs)
    return Prepared(ctx, refs, ctx.read_json(refs["preprocessor"], "preprocessor.json"))


def fit(
    use_case: UseCase, seed: int, check: Callable[[Sequence[str]], None]
) -> tuple[Checkpoint, list[dict[str, Any]]]:
    """Prepare the data and train; returns the checkpoint and the history, one row per epoch."""
    from lepton_tasks.training.checkpoint import read_weights, restored, spec_of
    from lepton_tasks.training.job import Job
    from lepton_tasks.training.launch import training, wait

    data = prepared(use_case)
    check(data.labels)
    workdir = data.ctx.root / "work" / data.ctx.run_id
    workdir.mkdir(parents=True)
    job = Job.of(
        use_case,
        run_id=data.ctx.run_id,
        features=data.features,
        workdir=workdir,
        preprocessor=data.preprocessor,
        seed=seed,
    )
    try:
        with training(job) as process:
            outcome = wait(job, process, lambda row: print(_line(row, use_case.train.epochs), flush=True))
        input_codec = codec_spec_of(use_case, data.fitted, job.learning_task())
        spec = {
            **spec_of(job, outcome),
            "input_codec": input_codec,
            "use_case": use_case.model_dump(mode="json"),
            "data_digest": data.refs["features"].digest,
        }
        return restored(spec, read_weights(job.best), where=str(job.best)), job.rows()
    finally:
        shutil.rmtree(workdir, ignore_errors=True)


def _line(row: dict[str, Any], epochs: int) -> str:
    """One epoch as a line of text."""
    from lepton_tasks.training.curves import told

    done = row["epoch"] + 1
    left = row["seconds"] / done * (epochs - done)
    return f"epoch {done}/{epochs}: {told(row)}, {left:.0f} s left"


def evaluate(use_case: UseCase, trained: Checkpoint) -> dict[str, float]:
    """Metrics of the learning task on the test part, with rows decoded as requests.

    Raises:
        DataError: the data have a label unknown to the model.
    """
    from lepton_tasks.data.requests import requests_of
    from lepton_tasks.models.inference import predict as outputs_of
    from lepton_tasks.stages.replay import decoded

    data, task = prepared(use_case), trained.task
    rows = task.evaluation_rows(data.features, "test")
    if not task.replayable or task.requests(rows) is not None:
        return task.metrics(outputs_of(trained.evaluable, rows.inputs, task.outputs), rows.targets)
    payloads = requests_of(
        use_case,
        data.ctx,
        splits=data.refs["splits"],  # type: ignore[arg-type]  # the stage `split` makes a DatasetRef
        features=data.features,
        fitted=data.fitted,
        limit=len(rows.targets),
    )
    outputs = outputs_of(
        trained.deployable, decoded(CODECS.build(*trained.spec["input_codec"]), payloads), task.outputs
    )
    return task.metrics(outputs, _targets(rows.targets, data.labels, trained.spec["labels"]))


def _targets(targets: np.ndarray, labels: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """Map targets to the model's order of labels."""
    if list(labels) == list(known):
        return targets
    if unknown := sorted(set(labels) - set(known)):
        raise DataError(f"the data have labels that the model does not know: {', '.join(unknown)}.")
    order = np.array([list(known).index(label) for label in labels])
    mapped: np.ndarray = order[targets]
    return mapped


def predict(trained: Checkpoint, inputs: Sequence[Any]) -> list[dict[str, Any]]:
    """Predict each input with the codecs that serving uses."""
    from lepton_tasks.models.inference import predict as outputs_of
    from lepton_tasks.stages.replay import decoded

    codec = CODECS.build(*trained.spec["input_codec"])
    payloads = [_payload(codec, value) for value in inputs]
    if not payloads:
        return []
    outputs = outputs_of(trained.deployable, decoded(codec, payloads), trained.task.outputs)
    encoder = OUTPUT_CODECS.build(*trained.task.output_codec())
    return [encoder.encode(outputs, row) for row in range(len(payloads))]


def _payload(codec: Any, value: Any) -> bytes:
    if isinstance(value, str) and not codec.media_type.startswith("text/"):
        value = Path(value)
    payload = payload_of(value)
    made: bytes = codec.payload(value) if payload is None else payload
    return made


def save(trained: Checkpoint, name: str, path: Path) -> Path:
    """Write weights and metadata atomically to one file."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    content = {
        "format": FORMAT,
        "class": name,
        "spec": json.dumps(trained.spec),
        "weights": trained.network.state_dict(),
    }
    try:
        torch.save(content, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def load(path: Path) -> tuple[str, Checkpoint]:
    """Read the class name and the checkpoint from a file of `save`; raises `ArtifactError` for other files."""
    from lepton_tasks.training.checkpoint import read_weights, restored

    try:
        content = read_weights(path)
    except FileNotFoundError as error:
        raise ArtifactError("no such file.", where=str(path)) from error
    except Exception as error:  # torch's reader raises a dozen kinds on other bytes
        reason = str(error).partition("\n")[0]
        raise ArtifactError(f"not a saved model: {reason}.", where=str(path)) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ArtifactError("not a model that this version's `save` wrote.", where=str(path), fix="Fit it again.")
    return content["class"], restored(json.loads(content["spec"]), content["weights"], where=str(path))
