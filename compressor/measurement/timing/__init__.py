"""Latency of several models on equal terms, cold start and memory, and the latency to expect."""
