"""A command sent to a cluster's job server, followed from here."""
