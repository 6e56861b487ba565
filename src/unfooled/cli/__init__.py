"""The `unfooled` command: a thin layer that parses, calls and prints."""
