"""Step 4: manifests to table partitions. `load.py` does the work."""
