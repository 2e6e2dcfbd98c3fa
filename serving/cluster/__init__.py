"""A repository on Kubernetes: `rtool deploy --kubernetes DIR`."""
