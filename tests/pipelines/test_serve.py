"""The flows as deployments: Prefect runs what prefect.yaml says, and switches outlive a restart."""

import json
import os
import subprocess
import sys
import time
from importlib.resources import files

import pytest
from engine.processes import free_port

from mae.config import read_yaml
from pipelines import pages, serve

NEW_DATA = "mae.data.arrived"
GPU_VARIABLES = {
    "docker": {"gpus", "shm_size", "user"},
    "kubernetes": {"gpus", "shm_size", "volume_claim", "grace_seconds"},
}


@pytest.fixture(scope="module")
def prefect_yaml(project):
    return read_yaml(project / "prefect.yaml")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A client of a real server with a database of its own: the one that tests share has no scheduler."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    folder = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PREFECT_HOME", str(folder))
        with (
            temporary_settings(restore_defaults={PREFECT_API_URL}),  # not the server that tests share
            pages.prefect(free_port()) as api,
            temporary_settings({PREFECT_API_URL: api}),
            get_client(sync_client=True) as client,
        ):
            yield client


@pytest.fixture
def register(project, monkeypatch, client):
    """A function that registers the deployments as `make serve` does, and gives them as Prefect has them."""
    monkeypatch.chdir(project)

    def run():
        for deployment in serve.deployments():
            deployment.apply()
        names = read_yaml(project / "prefect.yaml")["definitions"]["flows"]
        return {name: client.read_deployment_by_name(f"{name}/{name}") for name in names}

    return run


def switch(client, deployment, active):
    for schedule in deployment.schedules:
        client.update_deployment_schedule(deployment.id, schedule.id, active=active)


def scheduled(client, deployment):
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

    chosen = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
    return client.read_flow_runs(deployment_filter=chosen)


def test_each_flow_is_served_one_run_at_a_time_with_its_schedules_paused(register, client):
    found = register()
    assert set(found) == {"reproduce", "retrain", "rollback"}
    for deployment in found.values():
        assert deployment.global_concurrency_limit.limit == 1
        assert deployment.concurrency_options.collision_strategy == "CANCEL_NEW"
        assert deployment.description
        assert not any(schedule.active for schedule in deployment.schedules)
    assert [schedule.slug for schedule in found["retrain"].schedules] == ["nightly"]


def test_the_parameters_have_types_and_help_in_the_pages(register, client):
    for deployment in register().values():
        described = deployment.parameter_openapi_schema["properties"]
        for name, value in described.items():
            assert {"type", "anyOf", "enum", "allOf", "$ref"} & set(value), name
        if deployment.name != "rollback":
            assert all(value.get("description") for value in described.values()), described


@pytest.mark.slow
def test_a_schedule_makes_runs_once_it_is_switched_on_and_stays_on_when_served_again(register, client):
    deployment = register()["retrain"]
    assert not scheduled(client, deployment)
    switch(client, deployment, True)
    try:
        again = register()["retrain"]
        assert [schedule.active for schedule in again.schedules] == [True]
        deadline = time.monotonic() + 120  # the scheduler looks once a minute
        while not scheduled(client, again) and time.monotonic() < deadline:
            time.sleep(1)
        assert all(run.state.is_scheduled() for run in scheduled(client, again))
        assert scheduled(client, again)
    finally:
        switch(client, register()["retrain"], False)


def test_a_schedule_that_somebody_added_is_there_after_serving_again(register, client):
    from prefect.client.schemas.schedules import IntervalSchedule

    deployment = register()["reproduce"]
    client.create_deployment_schedules(deployment.id, [(IntervalSchedule(interval=3600), False)])
    again = register()["reproduce"]
    assert [schedule.schedule.interval.total_seconds() for schedule in again.schedules] == [3600]


def on_new_data(client):
    (found,) = [automation for automation in client.read_automations() if NEW_DATA in str(automation.trigger)]
    return found


def test_new_data_starts_a_retraining(register, client):
    register()
    assert (on_new_data(client).name, on_new_data(client).enabled) == ("retrain on new data", True)


def test_what_was_switched_off_stays_off_when_served_again(register, client):
    deployment = register()["retrain"]
    client.pause_automation(on_new_data(client).id)
    client.pause_deployment(deployment.id)
    try:
        assert register()["retrain"].paused
        assert not on_new_data(client).enabled
    finally:
        client.resume_automation(on_new_data(client).id)
        client.resume_deployment(deployment.id)
    assert not register()["retrain"].paused
    assert on_new_data(client).enabled


def add_pool(client, name, template=None):
    from prefect.client.schemas.actions import WorkPoolCreate

    client.create_work_pool(
        WorkPoolCreate(name=name, type=name, base_job_template=template or of_prefect(name))
    )


@pytest.mark.slow
def test_prefect_deploys_every_deployment_of_the_file_to_its_pool(project, client, prefect_yaml):
    add_pool(client, "process")
    for pool in GPU_VARIABLES:
        add_pool(client, pool, json.loads((project / f"pipelines/pools/{pool}.json").read_text()))
    environment = {**os.environ, "PREFECT_API_URL": str(client.api_url).rstrip("/"), "PWD": str(project)}
    environment |= {"MLFLOW_TRACKING_URI": "http://mlflow.example.com", "WORKER_USER": "1000:1000"}
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for deployment in prefect_yaml["deployments"]:
        flow = deployment["entrypoint"].partition(":")[2]
        found = client.read_deployment_by_name(f"{flow}/{deployment['name']}")
        assert found.work_pool_name == deployment["name"]
        assert found.pull_steps
        assert found.entrypoint == deployment["entrypoint"]
    here = client.read_deployment_by_name("retrain/process")
    assert here.pull_steps == [
        {"prefect.deployments.steps.set_working_directory": {"directory": str(project)}}
    ]
    assert here.job_variables["env"]["PYTHONPATH"] == str(project)
    for pool in GPU_VARIABLES:  # a container inherits nothing of its worker
        there = client.read_deployment_by_name(f"retrain/{pool}").job_variables["env"]
        assert there["MLFLOW_TRACKING_URI"] == environment["MLFLOW_TRACKING_URI"]
    assert client.read_deployment_by_name("retrain/docker").job_variables["user"] == "1000:1000"


def of_prefect(pool):
    """The base job template of a pool as Prefect ships it."""
    shipped = files("prefect") / "server/api/collections_data/views/aggregate-worker-metadata.json"
    for workers in json.loads(shipped.read_text()).values():
        if pool in workers:
            return workers[pool]["default_base_job_configuration"]
    raise AssertionError(f"Prefect knows no pool {pool}")


@pytest.mark.parametrize("pool", GPU_VARIABLES)
def test_our_job_templates_are_prefects_with_the_variables_that_a_gpu_needs(project, pool):
    ours, theirs = json.loads((project / f"pipelines/pools/{pool}.json").read_text()), of_prefect(pool)
    properties = ours["variables"]["properties"]
    added = {name: properties.pop(name) for name in GPU_VARIABLES[pool]}
    assert ours["variables"] == theirs["variables"]
    assert set(theirs["job_configuration"]) <= set(ours["job_configuration"])
    for name in added:
        assert f"{{{{ {name} }}}}" in json.dumps(ours["job_configuration"])


def test_the_job_variables_are_those_of_the_templates(project, prefect_yaml):
    for deployment in prefect_yaml["deployments"]:
        pool = deployment["work_pool"]["name"]
        template = project / f"pipelines/pools/{pool}.json"
        known = json.loads(template.read_text()) if template.exists() else of_prefect(pool)
        given = set(deployment["work_pool"]["job_variables"])
        assert given <= set(known["variables"]["properties"]), deployment["name"]


def rendered(project, prefect_yaml, pool):
    """Render our deployment as a worker of the pool does."""
    from prefect.utilities.templating import apply_values

    template = json.loads((project / f"pipelines/pools/{pool}.json").read_text())
    values = {name: value.get("default") for name, value in template["variables"]["properties"].items()}
    given = next(one["work_pool"] for one in prefect_yaml["deployments"] if one["name"] == pool)
    return apply_values(template["job_configuration"], values | given["job_variables"])


def test_a_kubernetes_pod_gets_gpus_shared_memory_the_working_copy_and_time_to_save(project, prefect_yaml):
    job = rendered(project, prefect_yaml, "kubernetes")
    pod = job["job_manifest"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/project", "/dev/shm"}
    assert container["env"]["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"
    assert pod["terminationGracePeriodSeconds"] > read_yaml(project / "params.yaml")["flows"]["grace"]


def test_a_docker_container_gets_gpus_and_its_user_as_the_docker_client_takes_them(project, prefect_yaml):
    from docker.models.containers import RUN_CREATE_KWARGS
    from docker.types import HostConfig

    given = rendered(project, prefect_yaml, "docker")["container_create_kwargs"]
    assert given.pop("user") == "{{ $WORKER_USER }}"  # which `prefect deploy` fills in
    assert "user" in RUN_CREATE_KWARGS
    host = HostConfig(version="1.44", **given)
    assert host["DeviceRequests"][0]["Capabilities"] == [["gpu"]]
    assert host["DeviceRequests"][0]["Count"] == -1
    assert host["ShmSize"] == 16 * 2**30
