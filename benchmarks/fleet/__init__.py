"""Many replicas on a virtual clock: what routing and scaling by seconds of waiting work are worth."""
