from collections import OrderedDict

import pytest

from lepton_tasks.core import catalogue
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.registry import Registry, check_params, load_object


class Box:
    def __init__(self, *, data_root: str, width: int, names: tuple[str, ...] = ()):
        self.data_root, self.width, self.names = data_root, width, names


BOXES = Registry("box", None, {"box": f"{__name__}:Box"})


def test_params_are_converted_and_given_values_added():
    box = BOXES.build("box", {"width": "3", "names": ["a"]}, data_root="/d")
    assert (box.data_root, box.width, box.names) == ("/d", 3, ("a",))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"widht": 3}, r"x.yaml: box.params.widht: Box has no parameter 'widht'. Did you mean 'width'\?"),
        ({"width": "wide"}, r"x.yaml: box.params.width: 'wide' is invalid"),
        ({"width": True}, r"x.yaml: box.params.width: True is invalid: it must be a number; YAML reads yes"),
        ({}, r"x.yaml: box.params: Box needs the parameter 'width'"),
        ({"width": 1, "data_root": "/etc"}, r"has no parameter 'data_root'"),
    ],
)
def test_wrong_params_are_named(params, message):
    with pytest.raises(ConfigError, match=message):
        BOXES.build("box", params, where="x.yaml: box", data_root="/d")


def test_unknown_name_offers_the_closest():
    with pytest.raises(ConfigError, match=r"no box named 'bix'. Did you mean 'box'\? Known: box."):
        BOXES.load("bix")


def test_a_class_that_breaks_the_protocol_is_refused():
    from lepton_tasks.core.protocols import Source

    with pytest.raises(ConfigError, match=r"source 'box' .* lacks .*read, state"):
        Registry("source", Source, {"box": f"{__name__}:Box"}).load("box")


def test_classes_without_a_python_signature_are_passed_through():
    assert check_params(OrderedDict, {}) == {}


LINES = [(kind, name) for kind, registry in catalogue.REGISTRIES.items() for name in registry.names()]


@pytest.mark.parametrize(("kind", "name"), LINES)
def test_every_line_of_the_catalogue_loads_and_keeps_its_protocol(kind, name):
    assert catalogue.REGISTRIES[kind].load(name) is load_object(catalogue.REGISTRIES[kind].entries[name])
