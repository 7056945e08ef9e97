"""The bucket format: data files, id indexes, manifests, commit log."""
