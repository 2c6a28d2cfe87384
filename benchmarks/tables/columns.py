"""The columns of the rows. A module of its own, so that what is measured decides when Polars is loaded."""

FLOATS = [f"f{i}" for i in range(7)]
NUMBERS = [*FLOATS, "i0", "i1", "i2", "amount"]
CLIPPED = [*FLOATS, "amount"]
CATEGORIES = {"c0": 5, "c1": 50, "c2": 500, "c3": 5_000}
