"""Any metric of Quantus that gives a value for each clip, by the name ``quantus:NAME``.

``catalogue`` says which there are (without torch), ``views`` what Quantus is shown of a batch, and ``bridge`` calls it.
"""
