import pytest

from skillbank.errors import NotFoundError, RuntimeMissingError, UsageError
from skillbank.jobs.record import Job
from skillbank.jobs.store import JobStore
from skillbank.launch import cancel_job, get_launcher


def test_launchers_go_by_name(store: JobStore) -> None:
    assert get_launcher("local", store).name == "local"
    assert get_launcher("debug", store, run=lambda _: 0).name == "debug"


def test_an_unknown_launcher_names_the_known_ones(store: JobStore) -> None:
    with pytest.raises(UsageError, match="'slurmm' is not available; use local or debug") as caught:
        get_launcher("slurmm", store)
    assert caught.value.allowed == ["local", "debug"]
    assert caught.value.hint == "--backend-type local"
    with pytest.raises(RuntimeMissingError, match="slurm is not part of this version") as later:
        get_launcher("slurm", store)
    assert later.value.exit_code == 5


def test_the_debug_launcher_needs_something_to_call(store: JobStore) -> None:
    with pytest.raises(UsageError, match=r"launcher debug: .* needs a function"):
        get_launcher("debug", store)


def test_canceling_a_job_that_ended_gives_it_back(store: JobStore, job: Job) -> None:
    store.transition(job.id, "running")
    store.transition(job.id, "done")
    assert cancel_job(store, job.id).state == "done"
    with pytest.raises(NotFoundError):
        cancel_job(store, "no-such-job")
