"""Interventions on what the image shows: do(concept), and what the model then says."""
