"""Tables of a few rows, as the stages see them."""

from lepton_tasks.data.tables.rows import Part, TableRows


def table_rows(folder, frame, parts=1):
    """The frame as rows of a table in a Parquet file, in so many parts."""
    path = folder / f"table-{len(list(folder.iterdir()))}.parquet"
    frame.write_parquet(path)
    size = -(-frame.height // parts)
    starts = range(0, frame.height, size)
    found = [Part(str(path), start, min(size, frame.height - start), start, "made") for start in starts]
    return TableRows(tuple(found), height=frame.height)
