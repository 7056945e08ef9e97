"""Step 3: committables to versions of a bucket's manifest. `commit.py` does the work."""
