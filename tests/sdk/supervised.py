"""A worker on the official Python SDK whose process dies of certain events, and which is started again whenever it has.

    supervised.py URL NAME FUNCTION [SCOPE [RETRY]]

It serves the function; with a scope it registers a state trigger of that scope for it, with `retry` as JSON. What it does with an
event stands in the event's value: `die` ends its process at once, `leave` ends it the way the SDK wants it, `slow` takes a moment;
anything else is done at once. Each event is written to the output before anything is done, as `KEY VALUE CRASHES`.
"""

import importlib
import json
import os
import sys
import threading
import time
from typing import Any

iii: Any = importlib.import_module("iii")
_over = threading.Event()


def main() -> None:
    url, name, function, *trigger = sys.argv[1:]
    client = iii.register_worker(url, iii.InitOptions(worker_name=name))

    def handle(event: Any, metadata: Any = None) -> None:
        value = event["new_value"]
        crashes = ((metadata or {}).get("iii_state") or {}).get("crashes", 0)
        os.write(1, f"{event['key']} {value} {crashes}\n".encode())
        if value == "die":
            os._exit(17)
        if value == "leave":
            _over.set()
            threading.Event().wait()
        if value == "slow":
            time.sleep(0.2)

    client.register_function(function, handle)
    if trigger:
        config: dict[str, Any] = {"scope": trigger[0]}
        if len(trigger) > 1:
            config["retry"] = json.loads(trigger[1])
        client.register_trigger({"type": "state", "function_id": function, "config": config})
    _over.wait()
    client.shutdown()
    os._exit(0)


main()
