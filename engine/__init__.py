"""Pure compute: metric, training, graph, search, scheduler. Speaks numpy to its neighbours, never Kafka or Redis."""
