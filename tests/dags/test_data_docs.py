import json

import pytest
from fastapi import HTTPException, Request
from fastapi.testclient import TestClient
from lepton_airflow.data_docs import PREFIX, DataDocs, page_path
from lepton_plugin import LeptonPlugin

from lepton_tasks.quality.report_files import report_folder

MARK = "0123456789abcdef" * 2


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A check of `wine` that passed and one that did not, in a state folder."""
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path))
    for failed, text in ((False, "all is well"), (True, "too much alcohol")):
        folder = report_folder(tmp_path, "validate_raw", MARK, failed=failed)
        (folder / "docs").mkdir(parents=True)
        (folder / "docs" / "index.html").write_text(text)
        (folder / "report.json").write_text(json.dumps({"use_case": "wine"}))


@pytest.fixture
def browser(kept, monkeypatch):
    """One that may read every Dag but `secret`."""
    from airflow.api_fastapi.core_api import security

    def requires_access_dag(method, entity):
        def check(request: Request):
            if request.path_params["dag_id"] == "secret":
                raise HTTPException(403, "Forbidden")

        return check

    monkeypatch.setattr(security, "requires_access_dag", requires_access_dag)
    return TestClient(DataDocs())


@pytest.mark.parametrize(("failed", "text"), [(False, "all is well"), (True, "too much alcohol")])
def test_the_page_of_a_check_is_shown_and_nothing_in_it_runs(browser, failed, text):
    answer = browser.get(page_path("wine", "validate_raw", MARK, failed=failed).removeprefix(PREFIX))
    assert (answer.status_code, answer.text) == (200, text)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "sandbox", "frame-ancestors 'none'"} <= set(policy)
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"secret/validate_raw/{MARK}/held", 403),
        (f"other/validate_raw/{MARK}/held", 404),  # the report is about another use case
        (f"wine/validate_cleaned/{MARK}/held", 404),
        (f"wine/validate_raw/{MARK}/other", 404),
        (f"wine/ingest/{MARK}/held", 404),
        ("wine/validate_raw/../held", 404),
        ("wine/validate_raw/..%2f..%2fwork/held", 404),
        (f"wine/validate_raw/{MARK}%0a/held", 404),
        (f"wine/validate_raw/{MARK}/held/report.json", 404),
    ],
)
def test_nothing_else_is(browser, path, status):
    assert browser.get(f"/{path}").status_code == status


def test_whoever_has_not_signed_in_is_asked_to(kept, monkeypatch):
    from airflow.api_fastapi import app

    class Manager:
        def get_url_login(self, next_url):
            return f"/auth/login?next={next_url}"

    monkeypatch.setattr(app, "get_auth_manager", Manager)
    path = page_path("wine", "validate_raw", MARK, failed=True).removeprefix(PREFIX)
    answer = TestClient(DataDocs()).get(path, follow_redirects=False)
    assert answer.status_code == 307
    assert answer.headers["location"] == f"/auth/login?next=http://testserver{path}"


def test_airflow_is_told_of_them():
    (app,) = LeptonPlugin.fastapi_apps
    assert app["url_prefix"] == PREFIX
