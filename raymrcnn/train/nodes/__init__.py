"""The nodes of the cluster that a run is on."""
