"""The engine at the other end of a bridge: the connection, the calls on it, and what its functions answer."""
