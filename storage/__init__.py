"""Object stores, table stores, and the bucket format on top of object stores."""
