"""Speed and memory of the evaluation beside the forms in which its metrics are usually computed."""
