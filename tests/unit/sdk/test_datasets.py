import pytest

from lepton_ai.datasets import ImageFolder, Texts
from lepton_ai.models import CNN


@pytest.mark.parametrize(
    ("name", "source"),
    [("a.csv", "csv"), ("a.TSV", "csv"), ("a.csv.gz", "csv"), ("a.jsonl", "json_lines"), ("a.ndjson.gz", "json_lines")],
)
@pytest.mark.parametrize("folder", [False, True])
def test_texts_are_read_by_what_their_files_are(tmp_path, name, source, folder):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / name).write_text("")
    train, test = Texts.split(tmp_path / "texts" if folder else tmp_path / "texts" / name)
    assert train.data.source.name == test.data.source.name == source


@pytest.mark.parametrize(
    ("folder", "name"), [("Größe & Co", "sdk_gr__e___co"), ("Photos", "sdk_photos"), ("写真", "sdk___")]
)
def test_any_folder_gives_a_name_that_a_use_case_may_have(tmp_path, folder, name):
    train, _ = ImageFolder.split(tmp_path / folder)
    assert CNN((8, 8, 1), 2)._use_case(train, {}).name == name
