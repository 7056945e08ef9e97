"""The embedded stack for one machine: a Pub/Sub broker in one process, the demo. Only `local` and the tests import it."""
