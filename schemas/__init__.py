"""What an event is: envelope, contracts, outcomes, manifests, table schemas. Knows neither Beam nor a cloud client."""
