"""The commands, a file each; `hopstream.cli` puts them together.

torch and the clients of Redis and Kafka are imported by the functions that need them: `--help` should not wait.
"""
