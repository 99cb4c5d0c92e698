"""Workers that are connected to an engine: what they register, the calls that they make, the calls that they execute."""
