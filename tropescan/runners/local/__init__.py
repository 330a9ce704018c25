"""The local host: scans shards in spawned processes and commits their parts, exactly once, in this one.

A worker imports this package, too: what it has no use for is not imported here.
"""
