"""Step 4: manifests to table partitions."""
