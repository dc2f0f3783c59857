import functools
import http.server
import threading

import pytest
import torch

from mae.data.loading.batches import TooManySkipped
from mae.data.loading.remote_shards import RemoteUnavailable, _addresses, remote_batches
from mae.data.transforms.image import pretraining

# webdataset leaves the streams that it read to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file"),
    pytest.mark.filterwarnings("ignore:subprocess"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(small_index):
    handler = functools.partial(_Quiet, directory=str(small_index.directory / "tars"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_shards_stream_over_http_into_the_same_kind_of_batches(address, small_index):
    urls = f"{address}/train-{{000000..000005}}.tar"
    split = small_index.split("train")
    known = {split.meta(row)["key"]: split.label(row) for row in range(len(split))}
    made = list(
        remote_batches(urls, pretraining(16), batch_size=6, batches=8, seed=0, shuffle=10, noise_shape=(4,))
    )
    assert len(made) == 8
    for batch in made:
        assert batch["images"].shape == (6, 3, 16, 16)
        assert batch["images"].dtype == torch.uint8
        assert batch["noise"].shape == (6, 4)
        assert batch["labels"].tolist() == [known[key.split("#")[1]] for key in batch["keys"]]
    assert len({key for batch in made for key in batch["keys"]}) > 15


def test_the_stream_is_seeded_and_ranks_draw_their_own(small_index):
    urls = [str(path) for path in sorted((small_index.directory / "tars").glob("train-*.tar"))]
    settings = {"batch_size": 5, "batches": 3, "seed": 0, "shuffle": 10}

    def keys(**options):
        return [batch["keys"] for batch in remote_batches(urls, pretraining(16), **{**settings, **options})]

    assert keys() == keys()
    assert keys() != keys(seed=1)
    assert keys() != keys(start=3)
    assert keys(world=2, rank=0) != keys(world=2, rank=1)


def test_shards_that_cannot_be_fetched_are_counted_and_bounded_by_name(address):
    signed = f"{address}/gone-000000.tar?token=hush"
    with pytest.raises(TooManySkipped, match=r"gone-000000\.tar") as caught:
        list(remote_batches(signed, pretraining(16), batch_size=2, batches=1, seed=0))
    assert "hush" not in str(caught.value)
    urls = [f"{address}/gone-000000.tar", f"{address}/train-000000.tar"]
    settings = {"batch_size": 4, "batches": 4, "seed": 0, "shuffle": 0, "max_skipped": 50}
    made = list(remote_batches(urls, pretraining(16), **settings))
    assert len(made) == 4
    assert sum(batch["skipped"] for batch in made) > 0


def test_braces_are_expanded_and_nothing_else_in_an_address_is_changed(monkeypatch):
    monkeypatch.setenv("WDS_HOST", "other")
    given = ["http://[::1]:8000/${HOST}/train-{0..1}.tar", "plain.tar"]
    monkeypatch.setattr("shutil.which", lambda program: program)
    assert _addresses(given) == [
        "http://[::1]:8000/${HOST}/train-0.tar",
        "http://[::1]:8000/${HOST}/train-1.tar",
        "plain.tar",
    ]


def test_a_missing_fetching_program_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    for url, program in (("http://host/a.tar", "curl"), ("s3://bucket/a.tar", "aws")):
        with pytest.raises(RemoteUnavailable, match=rf"{url}.*{program}"):
            remote_batches(url, pretraining(16), batch_size=2, batches=1, seed=0)


def test_no_addresses_are_refused():
    with pytest.raises(ValueError, match="no addresses"):
        remote_batches([], pretraining(16), batch_size=2, batches=1, seed=0)
