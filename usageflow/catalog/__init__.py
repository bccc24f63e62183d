"""What may be: organizations, API keys, metrics and stored policies."""
