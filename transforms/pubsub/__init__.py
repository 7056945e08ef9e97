"""Step 0, on local runners: pull messages, extend their leases, and acknowledge them once their events are durable."""
