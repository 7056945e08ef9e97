"""Step 1: messages to encoded records."""
