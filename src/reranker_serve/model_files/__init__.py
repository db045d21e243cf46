"""A model's files, found on this machine or fetched from the hub, and laid out as one folder."""
