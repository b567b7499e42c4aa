"""The loop that people write themselves: pages of tags, then manifest and config of each tag, in threads. Nothing is verified.

    python benchmarks/loop.py HOST NAME [--client requests|urllib3] [--threads 16]

Prints a line of JSON, as `reader.py` does: the seconds and the processor time of the reading, imports excluded.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urljoin

_ACCEPT = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
# Answers a URL with the body and the target of its Link header.
Get = Callable[[str], tuple[bytes, str | None]]


def with_requests(threads: int) -> Get:
    import requests

    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=threads))

    def get(url: str) -> tuple[bytes, str | None]:
        response = session.get(url, headers=_ACCEPT)
        response.raise_for_status()
        return response.content, response.links.get("next", {}).get("url")

    return get


def with_urllib3(threads: int) -> Get:
    import urllib3

    pool = urllib3.PoolManager(maxsize=threads)

    def get(url: str) -> tuple[bytes, str | None]:
        response = pool.request("GET", url, headers=_ACCEPT)
        assert response.status == 200, response.status
        link = response.headers.get("Link")
        return response.data, link and link.partition("<")[2].partition(">")[0]

    return get


def read(get: Get, base: str, threads: int) -> tuple[int, int]:
    """Return how many tags and how many requests it were; a config that several tags share is read once."""
    page: str | None = f"{base}/tags/list?n=1000"
    tags: list[str] = []
    pages = 0
    while page:
        body, link = get(page)
        page, pages = link and urljoin(page, link), pages + 1
        tags += json.loads(body)["tags"]
    with ThreadPoolExecutor(threads) as pool:
        manifests = list(pool.map(lambda tag: json.loads(get(f"{base}/manifests/{tag}")[0]), tags))
        configs = {manifest["config"]["digest"] for manifest in manifests}
        found = list(pool.map(lambda digest: json.loads(get(f"{base}/blobs/{digest}")[0]), configs))
    return len(manifests), pages + len(manifests) + len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("name")
    parser.add_argument("--client", choices=("requests", "urllib3"), default="requests")
    parser.add_argument("--threads", type=int, default=16)
    given = parser.parse_args()
    get = {"requests": with_requests, "urllib3": with_urllib3}[given.client](given.threads)
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    tags, requests = read(get, f"http://{given.host}/v2/{given.name}", given.threads)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"seconds": seconds, "cpu": cpu, "requests": requests, "tags": tags}))


if __name__ == "__main__":
    main()
