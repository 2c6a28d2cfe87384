"""The model package: a folder with everything serving needs, with checksums in a manifest."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
import pydantic

from lepton_tasks.core.catalogue import CODECS, OUTPUT_CODECS
from lepton_tasks.core.errors import ArtifactError, ConfigError
from lepton_tasks.core.protocols import Codec, OutputCodec
from lepton_tasks.core.redaction import Redaction
from lepton_tasks.core.spec import ComponentSpec
from lepton_tasks.core.store import digest_of, sha256_file, write_json

ONNX_FILE = "model.onnx"
SPEC_FILE = "package.json"
PREPROCESSOR_FILE = "preprocessor.json"
CARD_FILE = "card.md"
PROFILE_FILE = "profile.json"
EXAMPLE_STEM = "example"  # the suffix is the codec's
EXPECTED_FILE = "expected.json"  # prediction for the example
COMPRESSION_FILE = "compression.json"  # compression candidates and their results
PARITY_FILE = "parity.json"  # differences between the package's and the trained network's predictions
REDACT_FILE = "redact.json"  # redaction rules for the request log
MANIFEST_FILE = "manifest.json"

_ORT_TYPES = {
    "tensor(double)": "float64",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    **{f"tensor({name})": name for name in ("bool", "uint8", "int8", "int32", "int64")},
}
_FIX = "Export the model again, or copy the package again."


class TensorSpec(pydantic.BaseModel):
    """One input or output of the graph; None in `shape` means any size, the first axis is the batch."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    name: str
    dtype: Literal["bool", "uint8", "int8", "int32", "int64", "float16", "float32", "float64"]
    shape: tuple[int | None, ...]


class PackageSpec(pydantic.BaseModel):
    """Contents of ``package.json``."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    name: str
    task: str
    input_codec: ComponentSpec
    output_codec: ComponentSpec
    labels: tuple[str, ...]
    inputs: tuple[TensorSpec, ...] = pydantic.Field(min_length=1, max_length=1)
    outputs: tuple[TensorSpec, ...] = pydantic.Field(min_length=1)
    metrics: dict[str, float] = {}
    """On the test split."""
    validation: dict[str, float] = {}
    """Metrics on the validation split, on which thresholds and the like are chosen."""
    compression: ComponentSpec | None = None
    """Compression method of the graph; null if it is not compressed."""


class Package:
    """A loaded package. Thread-safe.

    Attributes:
        folder: Folder of the package.
        spec: Its ``package.json``.
        digest: sha256 over the names and contents of its files; equal to the digest of its artifact reference.
        output_names: Names of the outputs.
    """

    def __init__(self, folder: Path, spec: PackageSpec, digest: str, session: ort.InferenceSession) -> None:
        self.folder, self.spec, self.digest = folder, spec, digest
        self._session = session
        self.observe: Callable[[Mapping[str, np.ndarray]], None] | None = None
        """Called with the outputs of every batch, by name, in the thread that ran it."""
        self.output_names = [output.name for output in spec.outputs]
        self.headers: dict[bytes, Any] = {}
        """Cache of parsed headers of binary requests, see `inference.tensors`."""

    @functools.cached_property
    def codec(self) -> Codec:
        """Input codec: bytes of a request -> one sample."""
        return CODECS.build(self.spec.input_codec.name, self.spec.input_codec.params, where=SPEC_FILE)

    @functools.cached_property
    def output_codec(self) -> OutputCodec:
        """Output codec: one row of the outputs -> prediction."""
        return OUTPUT_CODECS.build(self.spec.output_codec.name, self.spec.output_codec.params, where=SPEC_FILE)

    def run(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """The graph's outputs by name for a batch of decoded samples (first axis: the batch)."""
        values = self._session.run(self.output_names, {self.spec.inputs[0].name: inputs})
        outputs = dict(zip(self.output_names, values, strict=True))
        if self.observe is not None:
            self.observe(outputs)
        return outputs

    def shrink(self, inputs: np.ndarray) -> None:
        """Release the memory that was allocated for larger batches than this one.

        Source: https://onnxruntime.ai/docs/get-started/with-c.html, "memory.enable_memory_arena_shrinkage".
        """
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._session.run(self.output_names, {self.spec.inputs[0].name: inputs}, options)

    def predict(self, payload: bytes) -> dict[str, Any]:
        """The prediction for one encoded sample; raises `DataError` if it cannot be decoded."""
        return self.output_codec.encode(self.run(self.codec.decode(payload)[np.newaxis]), 0)

    @functools.cached_property
    def redaction(self) -> Redaction | None:
        """Redaction rules of the use case for the request log."""
        path = self.folder / REDACT_FILE
        return Redaction.model_validate_json(path.read_bytes()) if path.exists() else None

    def example(self) -> tuple[bytes, dict[str, Any]] | None:
        """The example and its expected prediction, if the package has one."""
        return read_example(self.folder) if (self.folder / EXPECTED_FILE).exists() else None


def write_package(
    folder: Path,
    *,
    onnx: bytes | Path,
    spec: PackageSpec,
    preprocessor: Mapping[str, Any],
    card: str,
    example: tuple[bytes, Mapping[str, Any]] | None = None,
    profile: Mapping[str, Any] | None = None,
) -> None:
    """Write a package into `folder` and seal it; the manifest covers all files in the folder, so add others before.

    Args:
        folder: An existing folder, e.g. that of a draft.
        onnx: The graph, as bytes or as a file to copy (it may already be ``folder/model.onnx``).
        spec: Contents of ``package.json``.
        preprocessor: Contents of ``preprocessor.json``.
        card: The model card, Markdown.
        example: One encoded sample (PNG for images) and the prediction expected for it, as the output codec returns it.
            The smoke test sends it.
        profile: Contents of ``profile.json``, for monitors; not read by serving. ``rows`` and ``columns`` of requests
            from the training and validation splits, ``answers`` and ``test_rows`` of the test split, and ``training``,
            the energy used by training.
    """
    graph = onnx.read_bytes() if isinstance(onnx, Path) else onnx
    (folder / ONNX_FILE).write_bytes(graph)
    write_json(folder / SPEC_FILE, spec.model_dump(mode="json"))
    write_json(folder / PREPROCESSOR_FILE, dict(preprocessor))
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    if example is not None:
        payload, expected = example
        suffix = CODECS.load(spec.input_codec.name).suffix
        (folder / EXAMPLE_STEM).with_suffix(suffix).write_bytes(payload)
        write_json(folder / EXPECTED_FILE, dict(expected))
    if profile is not None:
        write_json(folder / PROFILE_FILE, dict(profile))
    seal(folder)


def copy_package(source: Path, target: Path) -> None:
    """Copy the files of a package, without those that the artifact store keeps beside them."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("_*"), dirs_exist_ok=True)


def seal(folder: Path) -> None:
    """Write the manifest of all files in a package folder."""
    write_json(folder / MANIFEST_FILE, _digests(folder))


def load_package(folder: Path, *, threads: int = 1) -> Package:
    """Load the package in `folder`, after verifying all files against the manifest.

    Args:
        folder: A folder written by `write_package`.
        threads: Threads per inference. One is best in a server, which runs requests in parallel.

    Raises:
        ArtifactError: a file is missing or altered, or ONNX Runtime refuses the graph.
    """
    digest = _check_manifest(folder)
    try:
        spec = PackageSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
    except pydantic.ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"])
        raise ArtifactError(f"{key}: {fault['msg']}.", where=str(folder / SPEC_FILE), fix=_FIX) from error
    package = Package(folder, spec, digest, open_graph(folder / ONNX_FILE, spec, threads=threads))
    try:
        _ = package.codec, package.output_codec, package.redaction
    except (ConfigError, pydantic.ValidationError) as error:
        raise ArtifactError(str(error), where=str(folder), fix=_FIX) from error
    return package


def read_example(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """The encoded example in a package folder, and its expected prediction."""
    codec = json.loads((folder / SPEC_FILE).read_text())["input_codec"]["name"]
    payload = (folder / EXAMPLE_STEM).with_suffix(CODECS.load(codec).suffix).read_bytes()
    return payload, json.loads((folder / EXPECTED_FILE).read_text())


def _digests(folder: Path) -> dict[str, str]:
    names = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): sha256_file(p) for p in names if p.name != MANIFEST_FILE}


def _check_manifest(folder: Path) -> str:
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        missing = {ONNX_FILE, SPEC_FILE} - set(manifest)
    except (OSError, ValueError) as error:
        raise ArtifactError("no readable manifest, so no model package.", where=str(folder), fix=_FIX) from error
    for name in (*sorted(missing), *manifest):
        path = folder / name
        if name in missing or not path.is_file() or sha256_file(path) != manifest[name]:
            raise ArtifactError(f"{name} is missing or differs from the manifest.", where=str(folder), fix=_FIX)
    return digest_of({**manifest, MANIFEST_FILE: sha256_file(folder / MANIFEST_FILE)})


def open_graph(path: Path, spec: PackageSpec, *, threads: int = 1) -> ort.InferenceSession:
    """An inference session for a graph with the inputs and outputs of `spec`.

    Raises:
        ArtifactError: ONNX Runtime refuses the graph, or its inputs or outputs differ.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads compete with the event loop and the decoders, which halved the throughput under load.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a dozen classes without a common base
        reason = " ".join(str(error).split())
        raise ArtifactError(f"ONNX Runtime refuses the graph: {reason}.", where=str(path), fix=_FIX) from error
    for expected, actual in ((spec.inputs, session.get_inputs()), (spec.outputs, session.get_outputs())):
        tensors = {tensor.name: tensor for tensor in actual}
        for tensor in expected:
            if tensor.name not in tensors:
                raise ArtifactError(f"the graph has no tensor {tensor.name!r}.", where=str(path), fix=_FIX)
            _check_tensor(tensor, tensors[tensor.name], path)
    return session


def _check_tensor(expected: TensorSpec, actual: ort.NodeArg, path: Path) -> None:
    """Raise `ArtifactError` if a tensor of the graph has a different type or shape than in the package."""
    sizes = [size if isinstance(size, int) else None for size in actual.shape]
    same_shape = len(sizes) == len(expected.shape) and all(
        None in pair or pair[0] == pair[1] for pair in zip(sizes, expected.shape, strict=True)
    )
    if _ORT_TYPES.get(actual.type) != expected.dtype or not same_shape:
        raise ArtifactError(
            f"the tensor {expected.name!r} is {actual.type} {sizes}, not {expected.dtype} {list(expected.shape)}.",
            where=str(path),
            fix=_FIX,
        )
