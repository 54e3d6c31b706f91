"""Which cards a job takes."""
