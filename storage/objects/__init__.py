"""Object stores: a local directory or Cloud Storage."""
