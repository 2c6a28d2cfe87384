"""Networks of installed packages: ``timm/<name>``, ``torchvision/<name>``. Nothing is downloaded."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from lepton_tasks.core.environment import load_environment
from lepton_tasks.core.errors import ConfigError


class NamedElsewhere(nn.Module):
    """An image classifier from another package.

    Args:
        input_shape: ``(height, width, channels)`` of an image.
        num_classes: Number of classes.
        weights: Pretrained weights in the package's own format (``.pth``, ``.safetensors``); relative to the data
            folder. The last layer is skipped if its classes differ. Null: random initialisation.
    """

    name: ClassVar[str]
    """Name in the use case."""
    prunable: ClassVar[bool] = True

    def __init__(self, input_shape: Sequence[int], num_classes: int, *, weights: str | None = None) -> None:
        super().__init__()
        self._weights, self._classes = weights, num_classes
        self.network = self.made(tuple(input_shape), num_classes)

    def made(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Build the package's network, randomly initialised."""
        raise NotImplementedError

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [N, num_classes] of images float32 [N, C, H, W]."""
        outputs = self.network(images)
        logits: torch.Tensor = (
            outputs if isinstance(outputs, torch.Tensor) else outputs[0]
        )  # without auxiliary outputs in training
        return logits

    def begin_with_weights(self) -> None:
        """Load the weights file, if any; reads tensors only and runs no code.

        Raises:
            ConfigError: the file does not exist, or does not match this network.
        """
        if self._weights is None:
            return
        path, where = Path(load_environment().data_root) / self._weights, "model.params.weights"
        if not path.is_file():
            raise ConfigError(
                f"no file {path}.",
                where=where,
                fix="Fetch the weights by hand, e.g. from the package's page, and name the file; none is downloaded.",
            )
        given, own = _tensors(path), self.network.state_dict()
        fitting = {name: given[name] for name in own if name in given and given[name].shape == own[name].shape}
        missing = [name for name in own if name not in fitting and not name.endswith("num_batches_tracked")]
        if foreign := [name for name in missing if own[name].shape[:1] != (self._classes,)]:
            raise ConfigError(
                f"{path.name} is not of {self.name!r}: {len(foreign)} of {len(own)} tensors are missing or of another"
                f" shape, the first is {foreign[0]}.",
                where=where,
                fix="Name the file that belongs to this network.",
            )
        self.network.load_state_dict(fitting, strict=False)


class _Timm(NamedElsewhere):
    def made(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        import timm

        member = self.name.partition("/")[2]
        config = timm.get_pretrained_cfg(member)
        size = {"img_size": shape[:2]} if config is not None and config.fixed_input_size else {}
        network: nn.Module = timm.create_model(member, pretrained=False, num_classes=classes, in_chans=shape[2], **size)
        return network


class _Torchvision(NamedElsewhere):
    def made(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        import torchvision

        member = self.name.partition("/")[2]
        if shape[2] not in (1, 3):
            raise ConfigError(
                f"{self.name!r} takes pictures of three channels or grey ones, not of {shape[2]}.",
                where="model",
                fix="Set features.params.channels to 1 or 3.",
            )
        size = {"image_size": shape[0]} if member.startswith("vit_") else {}
        network: nn.Module = torchvision.models.get_model(member, weights=None, num_classes=classes, **size)
        return network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See `NamedElsewhere`; greyscale images are repeated to three channels."""
        return super().forward(images.expand(-1, 3, -1, -1))


def of_timm(name: str, *, where: str = "") -> type[NamedElsewhere]:
    """The class of ``timm/<name>``; raises `ConfigError` without the package, or for a name it does not have.

    Source: https://huggingface.co/docs/timm
    """
    package = _installed("timm", name, where)
    return _known(_Timm, name, package.is_model, package.list_models, where)


def of_torchvision(name: str, *, where: str = "") -> type[NamedElsewhere]:
    """The class of ``torchvision/<name>``; raises `ConfigError` without the package, or for a name it does not have.

    Source: https://docs.pytorch.org/vision/stable/models.html
    """
    package = _installed("torchvision", name, where)

    def names() -> Sequence[str]:
        found: Sequence[str] = package.models.list_models(module=package.models)  # image classifiers
        return found

    return _known(_Torchvision, name, lambda member: member in names(), names, where)


def _installed(package: str, name: str, where: str) -> Any:
    try:
        return importlib.import_module(package)
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: torchvision built for another torch
        raise ConfigError(
            f"{name!r} needs the package {package}, which cannot be imported: {error}.",
            where=where,
            fix=f"Install {package} (in the image of the stages too), built for this torch; or name a model of"
            " `lepton list models`. Serving does not need it.",
        ) from error


def _known(base: type[NamedElsewhere], name: str, knows: Any, names: Any, where: str) -> type[NamedElsewhere]:
    """Class of a known name; rejects paths and addresses in names (``hf-hub:...``)."""
    package, _, member = name.partition("/")
    if not knows(member):
        close = difflib.get_close_matches(member, names(), n=3)
        hint = f"Did you mean {' or '.join(f'{package}/{c}' for c in close)}?" if close else f"See {package}'s list."
        raise ConfigError(f"{package} has no model named {member!r}.", where=where, fix=hint)
    return type(base.__name__.strip("_"), (base,), {"name": name, "__module__": base.__module__})


def _tensors(path: Path) -> Mapping[str, torch.Tensor]:
    """Tensors by name in a weights file."""
    if path.suffix == ".safetensors":
        return dict(_installed("safetensors.torch", path.name, "model.params.weights").load_file(path))
    found = torch.load(path, map_location="cpu", weights_only=True)
    return found.get("state_dict", found) if isinstance(found, dict) else {}
