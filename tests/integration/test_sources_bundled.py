import subprocess
import sys

import polars as pl
import pytest

from lepton_tasks.core.catalogue import TABLE_SOURCES

SHAPES = {
    "sklearn_breast_cancer": ((569, 31), {"malignant": 212, "benign": 357}),
    "sklearn_wine": ((178, 14), {"class_0": 59, "class_1": 71, "class_2": 48}),
    "sklearn_diabetes": ((442, 11), None),
    "sklearn_digits": ((1_797, 65), None),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_tables_of_scikit_learn(tmp_path, name):
    source = TABLE_SOURCES.build(name, {}, data_root=tmp_path)
    ((rows, refused),) = [batch for piece in source.pieces() for batch in piece.read()]
    shape, counts = SHAPES[name]
    assert rows.shape == shape
    assert rows.schema == source.schema()
    kinds = dict.fromkeys(rows.columns, pl.Float64)
    assert rows.schema == (kinds if name == "sklearn_diabetes" else kinds | {"label": pl.String})
    assert refused.is_empty()
    assert counts is None or dict(rows["label"].value_counts().iter_rows()) == counts


def test_the_texts_of_airflow_name_their_language(tmp_path):
    source = TABLE_SOURCES.build("airflow_texts", {}, data_root=tmp_path)
    ((rows, _),) = [batch for piece in source.pieces() for batch in piece.read()]
    assert rows.height > 15_000
    assert rows["label"].n_unique() > 15
    german = rows.filter(label="de", key="common.generateToken")["text"].to_list()
    words = set(rows.filter(label="de")["text"].str.to_lowercase().str.split(" ").explode())
    assert {"und", "der", "nicht"} <= words
    assert len(german) <= 1
    assert rows.select("label", "key").is_duplicated().sum() == 0


def test_they_are_found_without_importing_their_packages():
    code = (
        "import sys; from pathlib import Path; from lepton_tasks.core.catalogue import TABLE_SOURCES\n"
        "for name in ('airflow_texts', 'sklearn_wine'): TABLE_SOURCES.build(name, {}, data_root=Path()).state()\n"
        "TABLE_SOURCES.build('airflow_texts', {}, data_root=Path()).pieces()\n"
        "sys.exit(', '.join({'airflow', 'sklearn', 'pandas', 'dask'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
