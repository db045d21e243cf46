"""Many replicas: which one a request goes to, and how many there should be."""
