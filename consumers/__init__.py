"""Everything that reads from Kafka: requests, items, behaviours; and the mirror that joins engine and store."""
