"""A server over the fake model as a process of its own: what it does on signals, without waiting for Paddle."""

from __future__ import annotations

import sys
import time

from serve_fakes import Model, Worker

from zoo_core.serve.app import make_app
from zoo_core.serve.metrics import Metrics
from zoo_core.serve.running import Door, bound, run_servers
from zoo_core.serve.scheduler import Scheduler
from zoo_core.serve.site import Limits, Site


class Slow(Worker):
    def before_step(self):
        time.sleep(0.005)


def main(drain_timeout):
    metrics = Metrics()
    scheduler = Scheduler(lambda: Slow(2), 2, 30, metrics)
    scheduler.start()
    site = Site(Model(context=2000), 0x3000, {"fake": ""}, scheduler, Limits(2, 30, 2000))
    metrics.attach(lambda: scheduler.waiting, lambda: scheduler.running, {"": "fake"})
    own = bound("127.0.0.1", 0, "--port")
    url = f"http://127.0.0.1:{own.getsockname()[1]}"
    door = Door(own, make_app(site, metrics))
    return run_servers([door], site, drain_timeout, lambda: print(f"serving fake at {url}/v1", flush=True))


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
