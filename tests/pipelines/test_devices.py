"""A device has one user on this machine, and comes back whatever was killed."""

import socket
import subprocess
import tempfile
import threading

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

from pipelines.devices import Closed, Devices

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def locks_of_this_test(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def limit(device):
    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name(f"{socket.gethostname()}-device-{device}")


def test_each_holder_sees_another_device_and_prefect_shows_them():
    devices = Devices([8, 9])
    with devices.lease() as first, devices.lease() as second:
        seen = {lease.environment["CUDA_VISIBLE_DEVICES"] for lease in (first, second)}
        assert seen == {"8", "9"}
        assert (limit(8).limit, limit(8).active_slots) == (1, 1)
    assert limit(8).active_slots == 0


def test_a_slot_that_a_killed_holder_left_in_use_in_prefect_is_free():
    with get_client(sync_client=True) as client:
        stale = GlobalConcurrencyLimitCreate(name=f"{socket.gethostname()}-device-7", limit=1, active_slots=1)
        client.create_global_concurrency_limit(stale)
    with Devices([7]).lease():
        assert limit(7).active_slots == 1


def test_a_device_that_a_person_reserved_is_skipped():
    with get_client(sync_client=True) as client:
        reserved = GlobalConcurrencyLimitCreate(name=f"{socket.gethostname()}-device-4", limit=0)
        client.create_global_concurrency_limit(reserved)
    devices = Devices([4, 5])
    with devices.lease() as lease:
        assert lease.environment == {"CUDA_VISIBLE_DEVICES": "5"}
        threading.Timer(1, devices.close).start()
        with pytest.raises(Closed), devices.lease():
            pass


def test_a_device_is_held_until_what_inherited_it_has_ended():
    with Devices([6]).lease() as lease:
        training = subprocess.Popen(["sleep", "2"], pass_fds=lease.fds)
    with Devices([6]).lease():
        assert training.wait(0.5) == 0


def test_who_waits_for_a_device_when_the_flow_ends_gets_none():
    devices, said = Devices([]), []
    with devices.lease():
        threading.Timer(2, devices.close).start()
        with pytest.raises(Closed), devices.lease(said.append):
            pass
    assert "waiting for a device (all)" in said[0]
    assert len(said) == 1
