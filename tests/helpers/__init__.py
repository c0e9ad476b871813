"""What several tests build with: tiny models and data, processes, servers."""
