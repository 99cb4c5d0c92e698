"""The iii worker protocol, as both sides speak it: messages, frames, handshake, calls under way."""
