"""compose.yaml is safe by default: nothing open to the network, no password, nothing without a check."""

import re

import pytest

from mae.config import read_yaml

SECRETS = ("PASSWORD", "SECRET", "ACCESS_KEY", "DATABASE", "BACKEND_STORE_URI", "ROOT_USER")


@pytest.fixture(scope="module")
def compose(project):
    return read_yaml(project / "compose.yaml")


@pytest.fixture(scope="module")
def services(compose):
    return compose["services"]


def test_every_service_is_there_checked_restarted_and_pinned(services):
    assert set(services) == {"postgres", "minio", "mlflow", "prefect", "worker"}
    for name, service in services.items():
        assert service["healthcheck"]["test"], name
        assert service["restart"] == "unless-stopped", name
        built = service.get("build", {}).get("dockerfile_inline", "")
        image = service.get("image") or re.search(r"^FROM (\S+)", built, re.MULTILINE)[1]
        assert re.search(r":(?!latest).*\d", image), image
        assert all(
            reach["condition"] == "service_healthy" for reach in service.get("depends_on", {}).values()
        )


def test_ports_are_published_on_loopback_only(services):
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:5000:5000", "127.0.0.1:4200:4200"]


def test_there_is_no_password_in_it_and_none_by_default(services, project):
    required = set()
    for name, service in services.items():
        for key, value in service["environment"].items():
            if any(word in key for word in SECRETS):
                assert re.search(r"\$\{\w+:\?[^}]+\}", value), f"{name}: {key}"
        required |= set(re.findall(r"\$\{(\w+):\?", str(service)))
        assert not re.search(r"\$\{\w+(:?-|\})", str(service)), (
            f"{name} has a value of its own for a variable"
        )
    example = (project / ".env.example").read_text()
    assert set(re.findall(r"^(\w+)=$", example, re.MULTILINE)) == required
    assert "=" not in re.sub(r"^\w+=$", "", example, flags=re.MULTILINE)


def test_what_must_outlive_a_container_lies_in_a_named_volume_or_the_working_copy(compose):
    mounted = [volume for service in compose["services"].values() for volume in service.get("volumes", [])]
    assert {volume.split(":")[0] for volume in mounted} == {*compose["volumes"], "."}


def test_telemetry_is_off_wherever_there_is_any(services):
    for name in ("mlflow", "prefect", "worker"):
        environment = services[name]["environment"]
        assert environment["DO_NOT_TRACK"] == environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
        assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


def test_the_servers_are_of_the_versions_that_the_lock_file_pins(services, project):
    lock = (project / "requirements.lock").read_text()
    versions = {name: re.search(rf"^{name}==(\S+)", lock, re.MULTILINE)[1] for name in ("mlflow", "prefect")}
    assert f"mlflow=={versions['mlflow']} " in services["mlflow"]["build"]["dockerfile_inline"]
    assert f":{versions['prefect']}-" in services["prefect"]["image"]


def test_the_worker_gets_longer_to_end_than_a_stage_gets_to_save(services, project):
    grace = read_yaml(project / "params.yaml")["flows"]["grace"]
    assert services["worker"]["stop_grace_period"] == "2m"
    assert grace < 120
