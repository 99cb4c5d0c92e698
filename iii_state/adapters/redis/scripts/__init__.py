"""The Lua scripts, and calls of them: keys and arguments in their order, and what the replies mean."""
