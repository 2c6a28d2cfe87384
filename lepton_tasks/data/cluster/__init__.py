"""Where the data stages compute: threads of this process, or the workers of a Dask cluster."""

from lepton_tasks.data.cluster.chunks import map_chunks

__all__ = ["map_chunks"]
