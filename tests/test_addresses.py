"""No address that is written has a password or a token."""

import pytest

from mae import config
from mae.addresses import holds_password, redact, redact_address


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("http://user:pw@host:5000", "http://host:5000"),
        ("https://token@host/mlflow/", "https://host/mlflow/"),
        ("http://user:p/w@host", "http://host"),
        ("http://user:p?w#x@host", "http://host"),
        ("http://user:p@w@host", "http://host"),
        ("http://user:p[w@host", "http://host"),
        ("http://user:p w@host", "http://host"),
        ("http://user:p%40w@[::1]:80/a", "http://[::1]:80/a"),
        ("http://host/a?token=pw", "http://host/a"),
        ("http://host/#token=pw", "http://host/"),
        ("http://host/#/runs/1", "http://host/#/runs/1"),
        ("postgresql+psycopg2://user:pw@host/db?password=pw", "postgresql+psycopg2://host/db"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("databricks://profile", "databricks://profile"),
        ("databricks", "databricks"),
    ],
)
def test_an_address_is_written_without_its_secrets(address, written):
    assert redact_address(address) == written
    assert redact(f"no answer at {address} now", address) == f"no answer at {written} now"


def test_an_address_in_a_text_is_written_without_its_secrets():
    assert (
        redact("no answer ('http://user:p/w@host:1/a?token=pw'): retry")
        == "no answer ('http://host:1/a'): retry"
    )
    assert redact("with url: /x?token=hush/api/2.0 (Caused by it)") == "with url: /x (Caused by it)"
    assert redact("see sqlite:////a@b/c.db, or not?") == "see sqlite:////a@b/c.db, or not?"


def test_the_secrets_of_a_known_address_are_found_anywhere_in_a_text():
    text = "Max retries exceeded with url: /?token=hush/api/2.0 (password hush, hu%73h)"
    assert "hush" not in redact(text, "http://user:hu%73h@host/?token=hush")


@pytest.mark.parametrize(
    ("address", "secret"),
    [
        ("http://user:pw@host", True),
        ("https://token@host", True),
        ("postgresql://user:pw@host/db", True),
        ("mysql://host/db?password=pw", True),
        ("postgresql://user@host/db?sslmode=require&sslkey=/key.pem", False),
        ("http://host:5000", False),
        ("sqlite:///mlflow.db", False),
        ("databricks://profile", False),
    ],
)
def test_a_password_in_params_yaml_is_refused_because_git_keeps_it(project, address, secret):
    assert holds_password(address) == secret
    values = config.read_yaml(project / "params.yaml")
    values["runtime"]["tracking_uri"] = address
    if not secret:
        config.parse(values)
        return
    with pytest.raises(config.InvalidParams, match=r"runtime.tracking_uri.*MLFLOW_TRACKING_URI") as caught:
        config.parse(values)
    assert "pw" not in str(caught.value)
    assert "token@" not in str(caught.value)
