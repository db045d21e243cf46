"""More than one machine: what runs the application as replicas of a fleet."""
