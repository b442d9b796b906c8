"""The paper's causal analysis of the last layer: interventions on neurons (sections 3.1, 3.2)."""
