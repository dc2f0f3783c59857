"""Traps of the versions that go together: what is broken silently by a newer or older package."""

import re


def test_the_prefect_server_imports():
    import prefect.server.api.server as server  # fails with fastapi >= 0.155

    assert callable(server.create_app)


def test_the_lock_file_pins_all_with_hashes_and_names_no_index(project):
    lock = (project / "requirements.lock").read_text()
    assert "://" not in lock
    entries = re.split(r"\n(?=\S)", lock.strip())
    pinned = [entry for entry in entries if not entry.startswith("#")]
    assert len(pinned) > 100
    assert all(re.match(r"[\w.\-\[\]]+==\S+", entry) and "--hash=sha256:" in entry for entry in pinned)
