"""The steps of the pipelines, one folder each. `transform.py` in a folder is the Beam part, its neighbours are plain functions.

In the order of the flow:

    pubsub/     pull messages, and hold their leases until their events are durable
    decode/     messages to packs of encoded records, by bucket and shard
    write/      packs to data files in staging, and committables that describe them
    commit/     committables to versions of a bucket's manifest; closes buckets
    load/       manifests to table partitions
    report.py   manifests to reports on the audit topic

Around the flow:

    sweep/      revisit hours, so that buckets without new events are closed and loaded
    dedup/      the ids that a stream has delivered, for write and commit
    recovery/   read and replay what was archived or refused: backfill, missing events, dead letters

Shared by several steps: `windows`, `parallel`, `failures`, `metrics` and `clocks`. No module here reads a flag or the
environment, or names a resource: the pipelines pass all of that in.
"""
