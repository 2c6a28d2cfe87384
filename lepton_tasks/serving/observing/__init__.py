"""What a server tells: metrics, request log, traces."""
