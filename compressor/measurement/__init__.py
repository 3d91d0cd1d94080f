"""What a model costs and what it answers: predictions, statistics, cost, latency and the machine they were taken on."""
