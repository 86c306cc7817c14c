"""Pictures of a running demo for the documentation: ``pgchorus top``, and the panels of the Grafana dashboard."""
