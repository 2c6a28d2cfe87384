"""Every line of the catalogue's FORMATS, and what Triton's own definition says of a `config.pbtxt`."""

import json

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from tiny_packages import LABELS, make_package

from lepton_tasks.core.catalogue import FORMATS
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.store import write_json
from lepton_tasks.deployment.formats.triton import Triton


@pytest.fixture
def package(tmp_path):
    make_package(tmp_path / "package")
    return tmp_path / "package"


WITH_CONVERTERS = {"litert"}
"""Formats whose converter is no part of Lepton."""


@pytest.mark.parametrize("name", sorted(WITH_CONVERTERS))
def test_without_its_converter_a_format_says_what_to_install(name, package, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(ConfigError, match=r"is not installed\. Install litert-torch"):
        FORMATS.build(name, {"checkpoint": str(tmp_path)}).write(package, tmp_path / "output")
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("name", sorted(set(FORMATS.names()) - WITH_CONVERTERS))
def test_a_format_writes_one_folder_and_leaves_the_package_alone(name, package, tmp_path):
    before = {path.name: path.read_bytes() for path in package.iterdir()}
    output = tmp_path / "output"
    folder = FORMATS.build(name, {}).write(package, output)
    assert list(output.iterdir()) == [folder]
    assert folder.name == "tiny"
    assert [path.read_bytes() for path in folder.rglob("model.onnx")] == [before["model.onnx"]]
    assert {path.name: path.read_bytes() for path in package.iterdir()} == before


def _model_config():
    """`ModelConfig` of Triton's model_config.proto, as far as it is written: names, kinds, and what repeats.

    Source: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
    """
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    types = [
        "INVALID",
        "BOOL",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "FP16",
        "FP32",
        "FP64",
        "STRING",
        "BF16",
    ]
    data = file.enum_type.add(name="DataType")
    for number, name in enumerate(types):
        data.value.add(name=f"TYPE_{name}", number=number)
    kind = file.enum_type.add(name="Kind")
    for number, name in enumerate(("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL")):
        kind.value.add(name=name, number=number)

    def message(title, /, **fields):
        made = file.message_type.add(name=title)
        for number, (field, what) in enumerate(fields.items(), start=1):
            label = kinds.LABEL_REPEATED if what.startswith("*") else kinds.LABEL_OPTIONAL
            what = what.lstrip("*")
            if hasattr(kinds, f"TYPE_{what.upper()}"):
                made.field.add(name=field, number=number, label=label, type=getattr(kinds, f"TYPE_{what.upper()}"))
            else:
                of = kinds.TYPE_ENUM if what in ("DataType", "Kind") else kinds.TYPE_MESSAGE
                made.field.add(name=field, number=number, label=label, type=of, type_name=f".inference.{what}")

    message("Reshape", shape="*int64")
    message("Input", name="string", data_type="DataType", dims="*int64", reshape="Reshape")
    message("Output", name="string", data_type="DataType", dims="*int64", reshape="Reshape", label_filename="string")
    message("InstanceGroup", name="string", kind="Kind", count="int32")
    message("Batching", preferred_batch_size="*int32", max_queue_delay_microseconds="uint64")
    message("Parameter", string_value="string")
    message("Entry", key="string", value="Parameter")
    message(
        "ModelConfig",
        name="string",
        platform="string",
        max_batch_size="int32",
        input="*Input",
        output="*Output",
        instance_group="*InstanceGroup",
        dynamic_batching="Batching",
        parameters="*Entry",  # a map is written like this
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def written(package, output, **params):
    folder = Triton(**params).write(package, output)
    return folder, text_format.Parse((folder / "config.pbtxt").read_text(), _model_config()())


def test_triton_is_told_what_the_graph_takes_and_gives(package, tmp_path):
    folder, config = written(package, tmp_path / "repository", version=3, max_batch=16, queue_delay=500)
    assert (folder / "3" / "model.onnx").read_bytes() == (package / "model.onnx").read_bytes()
    assert (config.name, config.platform, config.max_batch_size) == (folder.name, "onnxruntime_onnx", 16)
    tensor, answer = config.input[0], config.output[0]
    assert (tensor.name, tensor.data_type, list(tensor.dims)) == ("image", 2, [8, 8, 1])  # TYPE_UINT8
    assert (answer.name, answer.data_type, list(answer.dims)) == ("probabilities", 11, [2])  # TYPE_FP32
    assert (folder / answer.label_filename).read_text().split() == LABELS
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert [(group.kind, group.count) for group in config.instance_group] == [(2, 1)]
    manifest = json.loads((package / "manifest.json").read_text())
    parameters = {entry.key: entry.value.string_value for entry in config.parameters}
    assert parameters == {"lepton.task": "image_classification", "lepton.graph_sha256": manifest["model.onnx"]}


def test_without_batches_the_batch_is_a_dimension(package, tmp_path):
    _, config = written(package, tmp_path, max_batch=0)
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [-1, 8, 8, 1])
    assert not config.HasField("dynamic_batching")


def test_a_number_for_each_row_is_reshaped_and_a_name_is_quoted(package, tmp_path):
    spec = json.loads((package / "package.json").read_text())
    spec["outputs"] = [{"name": 'a "score"', "dtype": "float32", "shape": [None]}]
    write_json(package / "package.json", spec)
    _, config = written(package, tmp_path)
    answer = config.output[0]
    assert (answer.name, list(answer.dims), list(answer.reshape.shape)) == ('a "score"', [1], [])
    assert answer.HasField("reshape")


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        Triton(version=0)
