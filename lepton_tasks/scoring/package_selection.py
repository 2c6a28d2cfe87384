"""Locate the model package to use: a folder, or a version in the model registry."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ArtifactError, ConfigError
from lepton_tasks.tracking import registry

_PACKAGE_FILE = "package.json"
CHAMPION = "champion"


@dataclasses.dataclass(frozen=True)
class SelectedPackage:
    """A model package to score with.

    Attributes:
        folder: Folder of the package.
        version: Version in the registry; None for a package given as a folder.
        digest: Expected digest, if the registry has one.
    """

    folder: Path
    version: str | None = None
    digest: str | None = None


def select_package(
    name: str, ctx: RunContext, *, version: str | None = None, alias: str | None = None
) -> SelectedPackage:
    """Locate the package of a model.

    Args:
        name: A registered model, or the folder of a package.
        ctx: Registry and artifact store.
        version: Version number; by default, that of `alias`.
        alias: By default ``champion``.

    Raises:
        ConfigError: there is no such model, version or alias.
        ArtifactError: the package is not on this machine.
        UnavailableError: the registry does not answer.
    """
    if (folder := Path(name).expanduser()).is_dir():
        if version or alias:
            raise ConfigError("a folder has no versions.", where=name, fix="Leave --version and --alias out.")
        if not (folder / _PACKAGE_FILE).is_file():
            raise ConfigError(f"no model package: it has no {_PACKAGE_FILE}.", where=name)
        return SelectedPackage(folder.resolve())
    if "/" in name:
        raise ConfigError("no such folder.", where=name, fix="Give the folder of a model package, or a model's name.")
    url = ctx.environment.tracking_url
    found = registry.version(url, name, version) if version else registry.alias(url, name, alias or CHAMPION)
    if found is None:
        what = f"no version {version}" if version else f"no version with the alias {alias or CHAMPION!r}"
        raise ConfigError(
            f"{what} of {name!r} is registered.",
            where=url,
            fix="Train it with `lepton run`, choose another --version or --alias, or give the package's folder.",
        )
    uri = found["tags"].get("lepton.package_uri", "")
    folder = ctx.store.folder_at(uri)
    if not (folder / _PACKAGE_FILE).is_file():
        raise ArtifactError(
            f"the package of {name} version {found['version']} is not on this machine.",
            where=str(folder),
            fix="Point LEPTON_HOME at the state folder that holds it, or give the package's folder.",
        )
    return SelectedPackage(folder, str(found["version"]), found["tags"].get("lepton.package_digest"))
