"""Which ids are delivered already."""
