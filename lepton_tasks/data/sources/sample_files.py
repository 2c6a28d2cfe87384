"""Open the files of a data set: a folder, an archive or a remote address."""

from __future__ import annotations

from pathlib import Path

from lepton_tasks.data.archives import Archive, split_archive
from lepton_tasks.data.files import Files, LocalFiles, RemoteFiles


def open_files(path: str, data_root: Path) -> Files:
    """The files at a path.

    Args:
        path: A folder, an archive or a folder in one (``data.zip/photos``), or an fsspec address of either
            (``s3://bucket/photos``, ``https://host/data.zip``).
        data_root: Base folder of relative paths.

    Raises:
        DataError: an archive is damaged, unpacks to too much, or contains paths that lead out of it.
    """
    place = path if "://" in path else str(Path(data_root, path).expanduser())
    if "://" not in place and Path(place).is_dir():
        return LocalFiles(Path(place))
    archive, inside = split_archive(place)
    if archive is not None:
        return Archive(archive, inside)
    return RemoteFiles(place) if "://" in place else LocalFiles(Path(place))
