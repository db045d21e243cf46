"""Many replicas: what runs the application as one of them, which a request goes to, and how many there should be."""
