"""Step 2: records to staged data files."""
