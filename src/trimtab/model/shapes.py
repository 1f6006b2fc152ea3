"""The one legend of axis names used in jaxtyping annotations, and nothing else.

======== ====================================================================
axis     meaning
======== ====================================================================
batch    rows in one forward pass
token    positions in a padded batch
row      rows of a dataset
d_model  width of the residual stream
vocab    entries of the output distribution
concept  concepts of a bank
site     layer and stream
======== ====================================================================
"""
