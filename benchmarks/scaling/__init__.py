"""What many ranks compute and send for one system: counted, and a model of the time it takes."""
