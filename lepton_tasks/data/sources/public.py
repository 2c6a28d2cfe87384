"""Public data sets, downloaded on first use."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import polars as pl

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import UnavailableError
from lepton_tasks.core.table_protocols import Piece
from lepton_tasks.data.sources.csv import Csv
from lepton_tasks.data.sources.download import PublicFile, fetched
from lepton_tasks.data.sources.files import TableFile, find_files
from lepton_tasks.data.sources.image_folder import ImageFolder

_AG_NEWS = "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/555590db4219b1243abb1918effd6a7425a2d75f/data/ag_news_csv"
_MICROSOFT = "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F"
_GROUPLENS = "https://files.grouplens.org/datasets/movielens"


class AgNews(Csv):
    """127,600 news articles of 2004: ``label`` (World, Sports, Business, Sci/Tech), ``title`` and ``text``.

    Stored in ``<data_root>/ag-news``: ``train.csv`` and ``test.csv``, 31 MB.

    Args:
        data_root: Set by the environment.
        mirror: A server with ``ag-news/train.csv``; default ``LEPTON_MIRROR``, then the publisher.

    Source: Zhang, Zhao and LeCun, "Character-level Convolutional Networks for Text Classification", 2015.
    """

    public = (
        PublicFile(f"{_AG_NEWS}/train.csv", "76a0a2d2f92b286371fe4d4044640910a04a803fdd2538e0f3f29a5c6f6b672e"),
        PublicFile(f"{_AG_NEWS}/test.csv", "521465c2428ed7f02f8d6db6ffdd4b5447c1c701962353eb2c40d548c3c85699"),
    )
    labels = {"1": "World", "2": "Sports", "3": "Business", "4": "Sci/Tech"}

    def __init__(self, data_root: Path, mirror: str | None = None) -> None:
        super().__init__("ag-news", data_root, columns=("label", "title", "text"), types={"label": "text"})
        self._folder, self._mirror = Path(data_root, "ag-news"), mirror

    def state(self) -> dict[str, Any]:
        """The digests, which determine the content."""
        return {"files": [dataclasses.asdict(file) for file in self.public]}

    def fetch(self, ctx: RunContext) -> None:
        """Both files."""
        fetched(self.public, self._folder, mirror=self._mirror, meter=ctx.meter)

    @functools.cached_property
    def files(self) -> list[TableFile]:
        """Both files."""
        paths = [self._folder / file.name for file in self.public]
        return [file for path in paths for file in find_files(str(path), self._folder, ())]

    def pieces(self) -> list[Any]:
        """One per file."""
        return [_Labelled(piece, piece.origin) for piece in super().pieces()]

    def describe(self) -> dict[str, Any]:
        """Addresses and licence."""
        licence = "AG's corpus of news articles: for research, not for commercial use"
        return super().describe() | {"addresses": [file.address for file in self.public], "licence": licence}


@dataclasses.dataclass(frozen=True)
class _Labelled:
    piece: Piece
    origin: str
    parquet: str | None = None

    def read(self) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        for rows, refused in self.piece.read():
            yield rows.with_columns(pl.col("label").replace_strict(AgNews.labels)), refused


class MovieLens(Csv):
    """Film ratings: ``userId``, ``movieId``, ``rating`` (0.5 to 5) and ``timestamp`` (Unix seconds).

    Stored in ``<data_root>/movielens-<edition>``: the downloaded archive, or a manually added ``ratings.csv``.

    Args:
        data_root: Set by the environment.
        edition: ``latest-small`` (100,836 ratings, 1 MB; GroupLens may change it, so it has no digest) or ``25m``
            (25,000,095 ratings, 262 MB).
        mirror: A server with ``movielens-latest-small/ml-latest-small.zip``; default ``LEPTON_MIRROR``, then the
            publisher.
        films: Add ``title`` and ``genres`` of each film, from ``movies.csv`` next to the ratings.

    Source: Harper and Konstan, "The MovieLens Datasets: History and Context", 2015.
    """

    digests: dict[str, str | None] = {
        "latest-small": None,
        "25m": "8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa",
    }

    def __init__(
        self,
        data_root: Path,
        edition: Literal["latest-small", "25m"] = "latest-small",
        mirror: str | None = None,
        films: bool = False,
    ) -> None:
        super().__init__(f"movielens-{edition}/ratings.csv", data_root)
        self._folder, self._mirror = Path(data_root, f"movielens-{edition}"), mirror
        self.public = PublicFile(f"{_GROUPLENS}/ml-{edition}.zip", self.digests[edition])
        place = "movies.csv" if self._by_hand else f"{self.public.name}/ml-{edition}/movies.csv"
        self._films = Csv(f"movielens-{edition}/{place}", data_root) if films else None

    def state(self) -> dict[str, Any]:
        """The archive's URL and digest, or name, size and time of the manually added file."""
        if not self._by_hand:
            return dataclasses.asdict(self.public)
        return super().state() if self._films is None else super().state() | {"films": self._films.state()}

    def schema(self) -> dict[str, pl.DataType]:
        """Columns of the ratings and, with `films`, of the films."""
        added = dict.fromkeys(_FILM, pl.String()) if self._films is not None else {}
        return {**super().schema(), **added}

    def pieces(self) -> list[Any]:
        """Pieces of the ratings."""
        if self._films is None:
            return super().pieces()
        read = [rows for piece in self._films.pieces() for rows, _ in piece.read()]
        films = pl.concat(read).select("movieId", *_FILM)
        return [_Filmed(piece, piece.origin, films) for piece in super().pieces()]

    def fetch(self, ctx: RunContext) -> None:
        """Download the archive, unless ``ratings.csv`` was added manually."""
        if not self._by_hand:
            fetched([self.public], self._folder, mirror=self._mirror, meter=ctx.meter)

    @functools.cached_property
    def files(self) -> list[TableFile]:
        """The ratings, in the archive or added manually."""
        if self._by_hand:
            return super().files
        archive = self._folder / self.public.name
        return find_files(f"{archive}/{archive.stem}/ratings.csv", self._folder, ())

    def describe(self) -> dict[str, Any]:
        """Address and licence."""
        licence = "GroupLens: for research, not for commercial use"
        return super().describe() | {"address": self.public.address, "licence": licence}

    @property
    def _by_hand(self) -> bool:
        return (self._folder / "ratings.csv").is_file()


_FILM = ("title", "genres")


@dataclasses.dataclass(frozen=True)
class _Filmed:
    piece: Piece
    origin: str
    films: pl.DataFrame
    parquet: str | None = None

    def read(self) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        for rows, refused in self.piece.read():
            yield rows.join(self.films, on="movieId", how="left", maintain_order="left"), refused


class DogsAndCats(ImageFolder):
    """25,000 photos of cats and dogs (Kaggle "Dogs vs. Cats", Microsoft Asirra); some files are damaged.

    Stored in ``<data_root>/dogs-and-cats``: the downloaded archive (825 MB), or its manually added folder
    ``PetImages``.

    Args:
        data_root: Set by the environment.
        mirror: A server with ``dogs-and-cats/kagglecatsanddogs_5340.zip``; default ``LEPTON_MIRROR``, then the
            publisher.
    """

    public = PublicFile(
        f"{_MICROSOFT}/kagglecatsanddogs_5340.zip", "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"
    )

    def __init__(self, data_root: Path, mirror: str | None = None) -> None:
        self._folder, self._mirror = Path(data_root, "dogs-and-cats"), mirror
        self._by_hand = (self._folder / "PetImages").is_dir()
        path = "PetImages" if self._by_hand else f"{self.public.name}/PetImages"
        super().__init__(f"dogs-and-cats/{path}", data_root)

    def state(self) -> dict[str, Any]:
        """The archive's digest, or the manually added files."""
        return super().state() if self._by_hand else dataclasses.asdict(self.public)

    def fetch(self, ctx: RunContext) -> None:
        """Download the archive, unless its folder exists; raises `UnavailableError` with the alternatives."""
        if self._by_hand:
            return
        try:
            fetched([self.public], self._folder, mirror=self._mirror, meter=ctx.meter)
        except UnavailableError as error:
            folder = "Or name a folder of yours with cat/ and dog/: in Python by LEPTON_DOGS_AND_CATS, in a use case by"
            raise UnavailableError(
                error.what, where=error.where, fix=f"{error.fix} {folder} the source image_folder."
            ) from error

    def describe(self) -> dict[str, Any]:
        """Folder, classes, address and licence."""
        licence = "Microsoft Research: for research; Kaggle's rules of the competition"
        return super().describe() | {"address": self.public.address, "licence": licence}
