"""A connection to an engine, as a worker of it: what the bridge, attach and the command line share."""
