"""Step 3: staged files to a new manifest version."""
