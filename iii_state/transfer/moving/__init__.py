"""Moving the whole state of a stopped fleet from one Redis to another, or into a cluster: `iii-state move`."""
