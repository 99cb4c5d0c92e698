"""The benchmark: how fast the engine answers, beside the least that a Python host can do. `scripts/bench` runs it.

What is measured, by section:

| section | module | the figures of |
|---|---|---|
| socket, in-process, events, idle | `sections` | calls, events and idle connections, values in memory and on file |
| clients, remote | `clients`, `remote` | our client beside the SDK; a bridge, an attached worker |
| long-list | `long_list` | how long a `list` of 100,000 values keeps other callers waiting |
| redis-scripts | `redis_scripts` | server time of the scripts, beside the least and beside cjson |
| redis-calls, redis-far | `redis_connection` | one connection to Redis, beside redis-benchmark and redis-py |
| redis-memory | `redis_memory` | what a value takes of Redis's memory |
| redis-socket, redis-engines | `redis_sockets` | calls through the socket, to one engine on Redis and to several |
| redis-latency, redis-events, redis-subscriptions | `redis_events` | events over Redis, from a write to its handler |
| redis-triggers, redis-backlog | `redis_triggers` | what triggers add to a write, what waiting events take |
| hot-key | `hot_key` | events of one key, beside calls made one at a time |
| redis-failover | `redis_failover` | how long events wait when an engine is killed |
| cluster | `redis_cluster` | a cluster beside a single Redis, the reach of its masters, a failover of one |

How it is measured:

- `__main__` reads the command line, `plan` says how much is measured, `sections` names the sections, `report` shows what was found;
- `processes` starts what is measured, each in a process of its own: `iii-state serve` and `attach`; `embedded` and `inprocess`,
  programs with an engine inside; `sketch`, the least that a Python host can do. `redis_host` starts the benchmark's Redis;
- `load` is the process that calls and handles. It takes `jobs` on its standard input, and is made of `sockets` (a connection),
  `callers` (who calls), `handling` (who handles events) and `frames` (what is sent, built before the clock starts); `client` is one
  client alone;
- `clock` and `cpu` read the time and the CPU time of processes; `bare` is the least that events over Redis can cost; `backlog` puts
  events into Redis that wait there; `delay` is a network that takes its time.
"""
