"""Export format `triton`: a Triton model repository, which KServe can also serve."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lepton_tasks.core.errors import ConfigError

_GRAPH, _SPEC, _LABELS = "model.onnx", "package.json", "labels.txt"
_TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
}


class Triton:
    """``config.pbtxt`` and ``<version>/model.onnx``; its inputs are tensors as the codec decodes them.

    Args:
        version: Version number in the repository.
        max_batch: Maximum rows of a dynamic batch; 0 for no batching.
        queue_delay: Maximum time a request waits to be batched, microseconds.

    Source: https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
    """

    def __init__(self, *, version: int = 1, max_batch: int = 32, queue_delay: int = 0) -> None:
        if version < 1 or max_batch < 0 or queue_delay < 0:
            raise ConfigError("`version` is at least 1, `max_batch` and `queue_delay` at least 0.")
        self.version, self.max_batch, self.queue_delay = version, max_batch, queue_delay

    def write(self, package: Path, output: Path) -> Path:
        """Write the model's folder in the repository `output`; other models there are not touched."""
        spec = json.loads((package / _SPEC).read_text())
        folder: Path = output / spec["name"]
        versioned = folder / str(self.version)
        versioned.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package / _GRAPH, versioned / _GRAPH)
        if spec["labels"]:
            (folder / _LABELS).write_text("\n".join(spec["labels"]) + "\n", encoding="utf-8")
        digest = json.loads((package / "manifest.json").read_text())[_GRAPH]
        (folder / "config.pbtxt").write_text(self._config(spec, digest), encoding="utf-8")
        return folder

    def _config(self, spec: Mapping[str, Any], digest: str) -> str:
        lines = [
            f"name: {_text(spec['name'])}",
            'platform: "onnxruntime_onnx"',
            f"max_batch_size: {self.max_batch}",
            *(self._tensor("input", tensor, ()) for tensor in spec["inputs"]),
            *(self._tensor("output", tensor, spec["labels"]) for tensor in spec["outputs"]),
            "instance_group [ { count: 1 kind: KIND_CPU } ]",
        ]
        if self.max_batch:
            lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {self.queue_delay} }}")
        for key, value in (("lepton.task", spec["task"]), ("lepton.graph_sha256", digest)):
            lines.append(f"parameters {{ key: {_text(key)} value {{ string_value: {_text(value)} }} }}")
        return "\n".join(lines) + "\n"

    def _tensor(self, kind: str, tensor: Mapping[str, Any], labels: Any) -> str:
        """One input or output; with batching, `dims` excludes the batch axis."""
        sizes = [-1 if size is None else size for size in tensor["shape"][1 if self.max_batch else 0 :]]
        parts = [f"name: {_text(tensor['name'])}", f"data_type: {_TYPES[tensor['dtype']]}"]
        # A scalar per row: Triton requires `dims: [1]` and a reshape to no dimensions.
        parts.append(f"dims: [ {', '.join(map(str, sizes or [1]))} ]")
        if not sizes:
            parts.append("reshape { shape: [ ] }")
        if labels and tensor["dtype"].startswith("float") and sizes[-1:] == [len(labels)]:
            parts.append(f"label_filename: {_text(_LABELS)}")
        return f"{kind} [ {{ {' '.join(parts)} }} ]"


def _text(value: str) -> str:
    return json.dumps(value)
