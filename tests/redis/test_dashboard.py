"""The dashboard process against a real Redis, seen over HTTP and by stock RQ tools."""

from __future__ import annotations

import base64
import pickle
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from enqueue import keys
from tests.fixtures.dashboard import (
    DONE,
    FAILED,
    HOST,
    SLEEP,
    START_BOUND_S,
    SUPERSEDED,
    WORKER_NAME,
    Dashboard,
    HostTraces,
)
from tests.fixtures.redis import RedisServer
from worker.protocol.verification import inflated

pytestmark = pytest.mark.redis

QUEUE = keys.HostKeys(HOST).queue_name
CALM = {"Sec-Fetch-Site": "same-origin"}


def listed(dashboard: Dashboard, registry: str) -> list[dict[str, Any]]:
    answer = dashboard.http.get(f"/0/data/jobs/{QUEUE}/{registry}/20/asc/1.json")
    assert answer.status_code == 200, answer.text
    jobs: list[dict[str, Any]] = answer.json()["jobs"]
    return jobs


def shown(dashboard: Dashboard, id_: str) -> dict[str, Any]:
    answer = dashboard.http.get(f"/0/data/job/{id_}.json")
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    return job


def rq(server: RedisServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    rq_cli = Path(sys.executable).with_name("rq")
    return subprocess.run(
        [str(rq_cli), arguments[0], "--url", server.url, *arguments[1:]],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def runs(traces: HostTraces, id_: str) -> None:
    """Registers the job as a stock worker does that runs it."""
    traces.worker.set_state("busy")
    traces.redis.sadd(traces.worker.executions_key, f"{id_}:e1")
    times = dict.fromkeys(("created_at", "last_heartbeat"), time.time())
    fields: dict[Any, Any] = {"id": "e1", "job_id": id_, "worker_name": WORKER_NAME, **times}
    traces.redis.hset(f"rq:execution:{id_}:e1", mapping=fields)


def request_bytes(traces: HostTraces, id_: str) -> bytes:
    """The data as the host reads it: RQ deflates what it saves."""
    data: Any = traces.redis.hget(keys.job(id_), "data")
    return inflated(data)


# ---------------------------------------------------------------- what is seen


def test_the_queue_is_listed_with_the_size_of_each_registry(
    traces: HostTraces, dashboard: Dashboard
) -> None:
    traces.started()
    traces.deferred()
    traces.published(DONE)
    traces.published(FAILED, SLEEP)
    traces.published(SUPERSEDED)
    traces.queued()
    assert dashboard.http.get("/").status_code == 200
    (queue,) = dashboard.http.get("/0/data/queues.json").json()["queues"]
    assert queue["name"] == QUEUE
    registries = ("started", "deferred", "finished", "failed", "canceled")
    sizes = {name: queue[f"{name}_job_registry_count"] for name in registries}
    assert (queue["count"], sizes) == (1, dict.fromkeys(registries, 1))


def test_each_registry_lists_its_job_with_a_readable_description(
    traces: HostTraces, dashboard: Dashboard
) -> None:
    ids = {
        "started": traces.started(SLEEP),
        "deferred": traces.deferred(),
        "finished": traces.published(DONE),
        "failed": traces.published(FAILED, SLEEP),
        "canceled": traces.published(SUPERSEDED),
        "queued": traces.queued(SLEEP),
    }
    seen = {registry: listed(dashboard, registry) for registry in ids}
    assert {registry: job["id"] for registry, (job,) in seen.items()} == ids
    for registry in ("started", "failed", "queued"):
        (job,) = seen[registry]
        assert job["description"] == "SleepInstance acme/workers/i-1a2b3c4d force=false"


def test_a_finished_job_shows_its_result(traces: HostTraces, dashboard: Dashboard) -> None:
    job = shown(dashboard, traces.published(DONE))
    assert (job["status"], job["exc_info"]) == ("finished", None)
    assert job["result"]["state"] == "running"
    assert job["result"]["steps"] == [{"name": "tap_present", "ms": 1.5, "applied": True}]


def test_a_failed_job_shows_why_and_its_whole_result(
    traces: HostTraces, dashboard: Dashboard
) -> None:
    job = shown(dashboard, traces.published(FAILED, SLEEP))
    assert job["status"] == "failed"
    assert job["exc_info"] == (
        "transient/no_space: 3 MiB are free, the image needs 512 MiB; free some"
    )
    assert job["result"]["code"] == "transient/no_space"
    assert listed(dashboard, "failed")[0]["exc_info"] == job["exc_info"]


def test_a_host_is_listed_as_a_worker_and_a_busy_one_with_its_job(
    traces: HostTraces, dashboard: Dashboard
) -> None:
    traces.registered("idle")
    (worker,) = dashboard.http.get("/0/data/workers.json").json()["workers"]
    assert (worker["queues"], worker["state"], worker["current_job"]) == ([QUEUE], "idle", "idle")
    id_ = traces.started()
    runs(traces, id_)
    answer = dashboard.http.get("/0/data/workers.json")
    assert answer.status_code == 200
    (worker,) = answer.json()["workers"]
    assert worker["current_job"]["job_id"] == id_
    assert worker["current_job"]["call_string"] == "StartInstance acme/workers/i-1a2b3c4d"


def test_a_job_with_dependencies_is_shown(traces: HostTraces, dashboard: Dashboard) -> None:
    first, second = traces.queued(), traces.queued(SLEEP)
    traces.redis.hset(keys.job(second), "dependency_ids", f'["{first}", "{HOST}_gone"]')
    job = shown(dashboard, second)
    assert job["depends_on"] == [first, f"{HOST}_gone"]
    assert job["depends_on_status"] == ["active", "expired"]


def test_the_tab_jobs_opens_the_queue_of_a_host(traces: HostTraces, dashboard: Dashboard) -> None:
    traces.queued()
    answer = dashboard.http.get("/0/view/jobs")
    assert (answer.status_code, QUEUE in answer.headers["location"]) == (302, True)
    assert dashboard.http.get(answer.headers["location"]).status_code == 200


def test_viewing_a_queue_removes_no_dead_id(traces: HostTraces, dashboard: Dashboard) -> None:
    id_ = traces.queued()
    traces.redis.delete(keys.job(id_))
    (job,) = listed(dashboard, "queued")
    assert (job["id"], job["description"].split(":")[0]) == (id_, "gone")
    assert traces.redis.lrange(traces.keys.queue, 0, -1) == [id_.encode()]


def test_an_unknown_job_and_another_redis_are_not_found(dashboard: Dashboard) -> None:
    assert dashboard.http.get("/0/data/job/nobody.json").status_code == 404
    assert dashboard.http.get("/1/data/queues.json").status_code == 404


# ---------------------------------------------------------------- requeue


@pytest.mark.parametrize("how", ["/job/{id}/requeue", "/requeue/{queue}"])
def test_requeue_puts_the_exact_bytes_back(
    traces: HostTraces, dashboard: Dashboard, how: str
) -> None:
    id_ = traces.published(FAILED, SLEEP)
    before = request_bytes(traces, id_)
    answer = dashboard.http.post(how.format(id=id_, queue=QUEUE), headers=CALM)
    assert (answer.status_code, answer.json()["status"]) == (200, "OK")
    assert traces.redis.lrange(traces.keys.queue, 0, -1) == [id_.encode()]
    assert traces.redis.zcard(traces.keys.failed) == 0
    assert request_bytes(traces, id_) == before
    assert traces.redis.hget(keys.job(id_), "status") == b"queued"


def test_a_second_requeue_says_that_there_is_nothing_to_requeue(
    traces: HostTraces, dashboard: Dashboard
) -> None:
    id_ = traces.published(FAILED, SLEEP)
    dashboard.http.post(f"/job/{id_}/requeue")
    assert dashboard.http.post(f"/job/{id_}/requeue").status_code == 409
    assert traces.redis.llen(traces.keys.queue) == 1


def test_stock_rq_shows_the_queue_and_requeues(
    traces: HostTraces, redis_server: RedisServer
) -> None:
    traces.registered()
    started, id_ = traces.started(), traces.published(FAILED, SLEEP)
    before = request_bytes(traces, id_)
    info = rq(redis_server, "info")
    assert (info.returncode, QUEUE in info.stdout) == (0, True), info.stderr
    assert traces.redis.zrange(traces.keys.started, 0, -1) == [started.encode()]
    requeued = rq(redis_server, "requeue", "--queue", QUEUE, id_)
    assert requeued.returncode == 0, requeued.stderr
    assert traces.redis.lrange(traces.keys.queue, 0, -1) == [id_.encode()]
    assert request_bytes(traces, id_) == before


# ---------------------------------------------------------------- strangers


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_a_pickled_bomb_is_executed_nowhere(
    traces: HostTraces, dashboard: Dashboard, tmp_path: Path
) -> None:
    crater = tmp_path / "crater"
    bomb = pickle.dumps(Bomb(crater))
    assert pickle.loads(bomb) is None  # noqa: S301  proves that the bomb works
    crater.unlink()
    id_ = traces.published(FAILED, SLEEP)
    traces.redis.hset(keys.job(id_), mapping={"meta": bomb, "data": bomb, "result": bomb})
    entry: dict[Any, Any] = {"type": 1, "return_value": base64.b64encode(bomb), "worker_name": "w"}
    traces.redis.xadd(keys.results(id_), entry)
    traces.registered()
    runs(traces, id_)
    for page in (
        *("/0/data/queues.json", "/0/data/workers.json", f"/0/view/job/{id_}"),
        *(f"/0/data/job/{id_}.json", f"/0/data/jobs/{QUEUE}/failed/8/asc/1.json"),
    ):
        assert dashboard.http.get(page).status_code == 200, page
    assert [job["id"] for job in listed(dashboard, "failed")] == [id_]
    dashboard.http.post(f"/job/{id_}/requeue")
    dashboard.http.get(f"/0/data/jobs/{QUEUE}/queued/8/asc/1.json")
    assert not crater.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("created_at", "yesterday"),
        ("timeout", "1; drop"),
        ("status", "hacked"),
        ("ttl", "x"),
        ("dependency_ids", "not json"),
        ("description", b"\xff\xfe"),
    ],
)
def test_a_poisoned_field_breaks_one_line_and_not_the_page(
    traces: HostTraces, dashboard: Dashboard, field: str, value: str | bytes
) -> None:
    bad, good = traces.queued(SLEEP), traces.queued()
    traces.redis.hset(keys.job(bad), field, value)
    lines = {job["id"]: job["description"] for job in listed(dashboard, "queued")}
    assert lines[good] == "StartInstance acme/workers/i-1a2b3c4d"
    assert lines[bad].startswith("unreadable")
    assert dashboard.http.get(f"/0/data/job/{bad}.json").status_code == 200


def test_a_foreign_entry_in_the_set_of_queues_is_skipped(
    traces: HostTraces, dashboard: Dashboard
) -> None:
    traces.queued()
    traces.redis.sadd(keys.QUEUES, "alien", b"\xff", "rq:queue:")
    queues = dashboard.http.get("/0/data/queues.json").json()["queues"]
    assert [queue["name"] for queue in queues] == [QUEUE]


def test_no_page_shows_untrusted_text_as_html(traces: HostTraces, dashboard: Dashboard) -> None:
    id_ = traces.queued()
    for page in ("workers", f"jobs/{QUEUE}/queued/8/asc/1", f"job/{id_}"):
        text = dashboard.http.get(f"/0/view/{page}").text
        assert [
            part for part in text.split("<%=")[1:] if "$('<div/>').text(" not in part[:30]
        ] == []
        assert "<%- " in text


def test_every_script_of_a_page_carries_the_nonce_of_its_policy(dashboard: Dashboard) -> None:
    answer = dashboard.http.get("/0/view/workers")
    policy = answer.headers["content-security-policy"]
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert answer.text.count("<script") == answer.text.count(f'<script nonce="{nonce}"') > 0
    assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]
    assert dashboard.http.get("/0/view/workers").headers["content-security-policy"] != policy


def test_pages_load_nothing_from_other_sites(traces: HostTraces, dashboard: Dashboard) -> None:
    page = dashboard.http.get(f"/0/view/job/{traces.queued()}").text
    loaded = [part.partition('"')[0] for part in page.split('src="')[1:]]
    assert loaded
    assert all(source.startswith("/static/") for source in loaded)
    assert all(dashboard.http.get(source).status_code == 200 for source in loaded)


# ---------------------------------------------------------------- other sites


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Referer": "https://evil.example/page"},
    ],
)
@pytest.mark.parametrize("path", ["/job/{id}/requeue", "/requeue/{queue}", "/job/{id}/delete"])
def test_another_site_changes_nothing(
    traces: HostTraces, dashboard: Dashboard, headers: dict[str, str], path: str
) -> None:
    id_ = traces.published(FAILED, SLEEP)
    answer = dashboard.http.post(path.format(id=id_, queue=QUEUE), headers=headers)
    assert answer.status_code == 403
    assert traces.redis.zcard(traces.keys.failed) == 1


def test_a_get_requeues_nothing_even_from_the_same_site(
    traces: HostTraces, dashboard: Dashboard
) -> None:
    traces.published(FAILED, SLEEP)
    answer = dashboard.http.get(f"/requeue/{QUEUE}", headers=CALM)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert dashboard.http.head(f"/requeue/{QUEUE}", headers=CALM).status_code == 405
    assert traces.redis.zcard(traces.keys.failed) == 1


def test_a_name_that_another_dns_points_here_is_not_served(
    redis_server: RedisServer, dashboard: Dashboard
) -> None:
    host = {"Host": "evil.example"}
    assert dashboard.http.get("/0/data/queues.json", headers=host).status_code == 421
    named = Dashboard("--redis", redis_server.url, "--name", "hostd.example")
    try:
        host = {"Host": "hostd.example"}
        assert named.http.get("/0/data/queues.json", headers=host).status_code == 200
    finally:
        named.stop()


def test_answers_carry_the_headers_that_keep_other_sites_out(dashboard: Dashboard) -> None:
    headers = dashboard.http.get("/").headers
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["server"] == "hostd"


# ---------------------------------------------------------------- what is off unless asked for


def test_nothing_is_deleted_unless_allowed(traces: HostTraces, dashboard: Dashboard) -> None:
    id_ = traces.published(FAILED, SLEEP)
    assert dashboard.http.post(f"/job/{id_}/delete").json() == {"status": "DISABLED"}
    emptied = dashboard.http.post(f"/queue/{QUEUE}/failed/empty")
    assert emptied.json() == {"status": "DISABLED"}
    assert traces.redis.exists(keys.job(id_))
    assert (
        "delete-job-btn"
        not in dashboard.http.get(f"/0/view/job/{id_}").text.partition("<script")[0]
    )


def test_a_queue_is_never_compacted(traces: HostTraces, dashboard: Dashboard) -> None:
    traces.queued()
    assert dashboard.http.post(f"/queue/{QUEUE}/compact").status_code == 403
    page = dashboard.http.get(f"/0/view/jobs/{QUEUE}/queued/8/asc/1").text
    assert 'id="compact-btn"' not in page


# ---------------------------------------------------------------- the process


def ended(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker.dashboard", *arguments],
        capture_output=True,
        text=True,
        timeout=START_BOUND_S,
        check=False,
        **options,
    )


def test_a_busy_port_is_one_line_and_exit_code_1(redis_server: RedisServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        found = ended("--redis", redis_server.url, "--listen", listen)
    assert (found.returncode, len(found.stderr.splitlines())) == (1, 1), found.stderr
    assert listen in found.stderr


def test_an_unreachable_redis_is_one_line_without_password_and_exit_code_3() -> None:
    found = ended("--redis", "redis://operator:hunter2@127.0.0.1:1/0")
    assert (found.returncode, len(found.stderr.splitlines())) == (3, 1), found.stderr
    assert "127.0.0.1:1" in found.stderr
    assert "hunter2" not in found.stderr


def test_a_wrong_url_and_a_wrong_descriptor_are_one_line_each(redis_server: RedisServer) -> None:
    found = ended("--redis", "http://127.0.0.1/")
    assert (found.returncode, len(found.stderr.splitlines())) == (2, 1), found.stderr
    found = ended("--redis", redis_server.url, "--listen", "fd:77")
    assert (found.returncode, len(found.stderr.splitlines())) == (1, 1), found.stderr


def test_it_serves_on_an_inherited_socket(redis_server: RedisServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.fileno()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "worker.dashboard"),
                *("--redis", redis_server.url, "--listen", f"fd:{number}"),
            ],
            pass_fds=[number],
            stdout=subprocess.DEVNULL,
        )
        try:
            with socket.create_connection(listening.getsockname(), START_BOUND_S) as browser:
                browser.settimeout(START_BOUND_S)
                browser.sendall(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
                assert browser.makefile("rb").readline().split()[1] == b"200"
        finally:
            process.terminate()
            assert process.wait(START_BOUND_S) == 0


def test_health_follows_redis(redis_server: RedisServer, dashboard: Dashboard) -> None:
    assert dashboard.http.get("/healthz").status_code == 200
    redis_server.stop()
    away = dashboard.http.get("/healthz")
    assert (away.status_code, len(away.text.splitlines())) == (503, 1)
    assert dashboard.http.get("/0/data/queues.json").status_code == 503
    redis_server.start()
    assert dashboard.http.get("/healthz").status_code == 200


def test_it_serves_below_a_prefix(traces: HostTraces, redis_server: RedisServer) -> None:
    traces.queued()
    below = Dashboard("--redis", redis_server.url, "--url-prefix", "/queues")
    try:
        assert QUEUE in below.http.get("/queues/0/data/queues.json").text
        assert '"/queues/"' in below.http.get("/queues/").text
        assert below.http.get("/0/data/queues.json").status_code == 404
    finally:
        below.stop()


def test_a_password_in_the_url_is_not_shown(redis_server: RedisServer) -> None:
    url = redis_server.add_user("viewer", password="hunter2", rights="~* &* +@all")
    watched = Dashboard("--redis", url)
    try:
        assert "hunter2" not in watched.http.get("/").text
    finally:
        assert "hunter2" not in watched.stop()


def test_times_are_those_of_the_host(traces: HostTraces, dashboard: Dashboard) -> None:
    job = shown(dashboard, traces.published(DONE))
    ended_at = datetime.fromisoformat(job["ended_at"])
    assert abs((datetime.now(UTC) - ended_at).total_seconds()) < 3600
    assert datetime.fromisoformat(job["started_at"]) <= ended_at
