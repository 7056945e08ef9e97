"""What an event is: envelope, contracts, outcomes, receipts, table schemas. Knows neither Beam nor a cloud client."""
