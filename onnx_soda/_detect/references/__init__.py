"""A second opinion: other models of the same classes under the same concepts.

A backdoor is in one model; what classes are naturally taken for is in all of them. The references
need not be trusted: several with other backdoors outvote each other.
"""
