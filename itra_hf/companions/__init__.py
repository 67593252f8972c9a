"""Where the second batch comes from."""
