import pytest

from skillbank.errors import LaunchError, NotFoundError, RuntimeMissingError, UsageError
from skillbank.jobs.processes import this_process
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


def test_a_debug_job_of_another_process_is_refused_and_stays_as_it_is(store: JobStore, job: Job) -> None:
    """Its process is that of somebody's notebook: it must not be killed, nor the record say it was."""
    store.transition(job.id, "running")
    ref = {"worker": this_process().to_dict(), "folder": str(job.folder), "is_in_process": True}
    store.set_backend(job.id, ref)
    with store._database.write() as connection:
        connection.execute("UPDATE jobs SET launcher = 'debug'")

    with pytest.raises(LaunchError, match="runs inside another program"):
        cancel_job(store, job.id)
    assert store.get(job.id).state == "running"


def test_a_job_of_another_machine_is_refused_and_stays_as_it_is(store: JobStore, job: Job) -> None:
    worker = {**this_process().to_dict(), "host": "elsewhere"}
    store.set_backend(job.id, {"worker": worker, "folder": str(job.folder)})
    store.transition(job.id, "running")

    with pytest.raises(LaunchError, match="elsewhere"):
        cancel_job(store, job.id)
    assert store.get(job.id).state == "running"
